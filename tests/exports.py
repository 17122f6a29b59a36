"""Tiny seeded Hugging Face models, exported on demand and cached: real graphs of real exporters, under 1 MB each.

Sizes are the smallest that keep every structure (several layers and heads, grouped keys, shifted windows, relative
positions). Weights are drawn wide, since a fresh initialization gives flat attention maps, and flat maps hide errors.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .kept import kept, recipe

__all__ = ["ATTENTION", "EXPORTERS", "FAMILIES", "KNOWN_FAILURES", "ExportedModel", "build_model", "export_model"]

EXPORTERS = ("torchscript", "dynamo")
ATTENTION = ("eager", "sdpa")

KNOWN_FAILURES: dict[tuple[str, str, str], str] = {
    ("deberta-v2", "torchscript", "sdpa"): "transformers: DebertaV2Model has no sdpa",
    ("deberta-v2", "dynamo", "sdpa"): "transformers: DebertaV2Model has no sdpa",
}
"""(family, exporter, attention) → why the exporter itself refuses. `export_model` raises for these."""

OPSET = {"torchscript": 17, "dynamo": 18}
VOCABULARY = 99
LENGTH, TARGET_LENGTH = 9, 6
FRAMES = 40
"""Tokens in, tokens out (decoders), spectrogram frames; the first two are dynamic axes, so feeds may differ from what
was traced.
"""


@dataclass(frozen=True)
class _Input:
    """One graph input: how to draw it, and its dynamic axes."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    axes: dict[int, str]


def _tokens(length: int, axis: str) -> _Input:
    return _Input(lambda rng, batch: rng.integers(3, VOCABULARY, (batch, length)), {0: "batch", 1: axis})


def _mask(length: int, axis: str) -> _Input:
    return _Input(lambda _, batch: np.ones((batch, length), np.int64), {0: "batch", 1: axis})


def _floats(*shape: int) -> _Input:
    return _Input(lambda rng, batch: rng.normal(size=(batch, *shape)).astype(np.float32), {0: "batch"})


TEXT = {"input_ids": _tokens(LENGTH, "sequence"), "attention_mask": _mask(LENGTH, "sequence")}
DECODER = {
    "decoder_input_ids": _tokens(TARGET_LENGTH, "target"),
    "decoder_attention_mask": _mask(TARGET_LENGTH, "target"),
}


@dataclass(frozen=True)
class _Family:
    """A model class, its configuration, its graph inputs, the outputs kept and how many attention maps it computes."""

    model: str
    config: dict[str, Any]
    inputs: dict[str, _Input]
    sites: int
    outputs: tuple[str, ...] = ("last_hidden_state",)


_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}

_FAMILIES: dict[str, _Family] = {
    "bert": _Family("BertModel", {**_ENCODER, "vocab_size": VOCABULARY, "max_position_embeddings": 32}, TEXT, 2),
    "vit": _Family(
        "ViTModel", {**_ENCODER, "image_size": 16, "patch_size": 4}, {"pixel_values": _floats(3, 16, 16)}, 2
    ),
    "gpt2": _Family(
        "GPT2Model", {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}, TEXT, 2
    ),
    "t5": _Family(
        "T5Model",
        {"vocab_size": VOCABULARY, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64},
        {**TEXT, "decoder_input_ids": DECODER["decoder_input_ids"]},
        6,
        ("last_hidden_state", "encoder_last_hidden_state"),
    ),
    "deberta-v2": _Family(
        "DebertaV2Model",
        {
            **_ENCODER,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 32,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
        TEXT,
        2,
    ),
    # Windows of 4 on 16 × 16 and 8 × 8 patches; every second block is shifted.
    "swin": _Family(
        "SwinModel",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        {"pixel_values": _floats(3, 32, 32)},
        4,
    ),
    # Without a decoder mask transformers looks for packed sequences with aten::diff, which TorchScript export does not
    # know.
    "whisper": _Family(
        "WhisperModel",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 8,
            "max_source_positions": FRAMES // 2,
            "max_target_positions": 20,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        {"input_features": _floats(8, FRAMES), **DECODER},
        6,
        ("last_hidden_state", "encoder_last_hidden_state"),
    ),
    "llama": _Family("LlamaModel", {**_ENCODER, "vocab_size": VOCABULARY, "num_key_value_heads": 2}, TEXT, 2),
}

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX file and how to feed it.

    Attributes:
        path: the file; it lies in a shared cache, do not write there.
        family, exporter, attention: what was asked for.
        expected_sites: number of attention maps that have to be found.
    """

    path: Path
    family: str
    exporter: str
    attention: str
    expected_sites: int

    def feeds(self, batch: int, padded: bool = False) -> dict[str, np.ndarray]:
        """Inputs for one run, the same on every call.

        Args:
            batch: number of samples.
            padded: right-pad all samples but the first, each to another length, where the model takes a mask; else
                every token is real.
        """
        rng = np.random.default_rng(batch)
        feeds = {name: spec.draw(rng, batch) for name, spec in _FAMILIES[self.family].inputs.items()}
        for name, mask in feeds.items():
            if padded and name.endswith("attention_mask"):
                length = mask.shape[1]
                for row in range(1, batch):
                    real = length - 1 - (row - 1) % (length - 4)
                    mask[row, real:] = 0
                    feeds[name.replace("attention_mask", "input_ids")][row, real:] = 0
        return feeds


def export_model(family: str, exporter: str, attention: str = "eager") -> ExportedModel:
    """The model's ONNX file, from the cache or made now.

    Raises:
        RuntimeError: the combination is in `KNOWN_FAILURES`.
    """
    if reason := KNOWN_FAILURES.get((family, exporter, attention)):
        raise RuntimeError(f"{family}, {exporter}, {attention}: {reason}")

    def make(partial: Path) -> None:
        with _quiet():
            _export(_FAMILIES[family], exporter, attention, partial)

    path = kept(f"{recipe(__file__)}/{family}-{exporter}-{attention}.onnx", make)
    return ExportedModel(path, family, exporter, attention, _FAMILIES[family].sites)


def _export(family: _Family, exporter: str, attention: str, path: Path) -> None:
    import torch

    with torch.random.fork_rng():
        model = _build(family, attention)
        inputs = {
            name: torch.from_numpy(spec.draw(np.random.default_rng(0), 2)) for name, spec in family.inputs.items()
        }
        names, axes = list(inputs), {name: spec.axes for name, spec in family.inputs.items()}
        options: dict[str, Any] = {
            "input_names": names,
            "output_names": list(family.outputs),
            "opset_version": OPSET[exporter],
        }
        if exporter == "torchscript":
            batch_axes = {name: {0: "batch"} for name in family.outputs}
            torch.onnx.export(
                model, tuple(inputs.values()), path, dynamo=False, dynamic_axes={**axes, **batch_axes}, **options
            )
        else:
            dynamic = torch.export.Dim.DYNAMIC
            shapes = (tuple(dict.fromkeys(axes[name], dynamic) for name in names),)
            torch.onnx.export(
                model,
                tuple(inputs.values()),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                **options,
            )


def build_model(family: str, attention: str = "eager") -> Any:
    """The torch module that `export_model` exports: positional inputs in the order of `feeds`, a tuple of outputs."""
    import torch

    with torch.random.fork_rng():
        return _build(_FAMILIES[family], attention)


def _build(family: _Family, attention: str) -> Any:
    """The model behind positional inputs and outputs, with weights that make attention uneven; always the same ones."""
    import torch
    import transformers

    torch.manual_seed(0)
    model_class = getattr(transformers, family.model)
    config = model_class.config_class(**family.config, attn_implementation=attention)
    config.use_cache = False
    # Without requires_grad_, torch 2.13 fails to decompose sdpa with a dynamic batch ("Cannot view a tensor with
    # shape").
    inner = model_class(config).eval().requires_grad_(False)
    _widen(inner)

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = self.inner(**dict(zip(family.inputs, values, strict=True)))
            return tuple(result[name] for name in family.outputs)

    return Positional().eval()


def _widen(model: Any) -> None:
    """Redraw all weights at unit gain, then sharpen queries and keys:
    rows of a map then differ and have clear peaks.
    """
    import torch

    sharpness = 1.7
    for name, weight in model.named_parameters():
        parts = name.split(".")
        with torch.no_grad():
            if weight.ndim == 1:
                is_scale = parts[-1] == "weight"
                weight.copy_(float(is_scale) + 0.1 * torch.randn_like(weight))
            elif "embed" in name or weight.ndim == 3 or "bias" in parts[-1]:
                weight.normal_(0, 0.7)
            else:
                transposed = isinstance(model.get_submodule(".".join(parts[:-1])), _conv1d())
                weight.normal_(0, (weight.shape[0] if transposed else weight[0].numel()) ** -0.5)
                if {"query", "key", "q", "k", "q_proj", "k_proj", "query_proj", "key_proj", "c_attn"} & set(parts):
                    weight.mul_(sharpness)


def _conv1d() -> type:
    """GPT-2's linear layer, which keeps its weight as (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return Conv1D


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print progress and warn of what these tests are about (tracing, opsets)."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
