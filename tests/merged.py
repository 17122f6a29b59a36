"""Merged decoders, as Optimum makes them of a decoder without a past and one with it."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import onnx
import pytest

from atpatch_onnx.exporters.exporter import export
from atpatch_onnx.exporters.quiet import quiet

from .kept import EXPORTER_SOURCES, kept, recipe

__all__ = ["MERGED", "causal", "encoder_decoder", "merged_of", "seq2seq"]

MERGED = "decoder_model_merged.onnx"
MODELS = Path(__file__).parents[1] / "models" / "exports"
FIRST, LATER = "decoder_model.onnx", "decoder_with_past_model.onnx"


@functools.cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="merged-")


def merge(folder: Path, *, strict: bool = True) -> Path:
    """One graph of the two in a folder, by Optimum.

    Args:
        strict: both have the same outputs. An encoder-decoder's later steps give out no keys of the encoder's states.
    """
    transformations = pytest.importorskip(
        "optimum.onnx.graph_transformations", reason="tests/third_party.txt is not installed"
    )
    transformations.merge_decoders(folder / FIRST, folder / LATER, save_path=folder / MERGED, strict=strict)
    return folder / MERGED


def merged_of(first: onnx.ModelProto, later: onnx.ModelProto) -> onnx.ModelProto:
    """As `merge`, of graphs in memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(first, folder / FIRST)
        onnx.save(later, folder / LATER)
        return onnx.load(merge(folder))


@functools.cache
def seq2seq(family: str) -> Path:
    """A folder with an encoder, both decoders and the merged one: "t5", "bart" or "whisper"."""

    def make(folder: Path) -> None:
        with quiet():
            export(encoder_decoder(family), f"{folder}/", exporter="torchscript")
        merge(folder, strict=False)

    return kept(f"{recipe(__file__, *EXPORTER_SOURCES, MODELS)}/{family}", make)


@functools.cache
def encoder_decoder(family: str) -> Path:
    """What `seq2seq` exports, a folder of transformers."""
    from models.exports.families import ROWS
    from models.exports.tiny import save_model

    with quiet():
        return save_model(next(row for row in ROWS if row.name == f"{family} encoder"), Path(_kept().name))


@functools.cache
def causal(source: Path, cached: Path) -> Path:
    """Of a causal language model.

    Args:
        source: a folder of transformers.
        cached: its export with a cache.
    """
    name = f"{recipe(__file__, cached)}/{cached.stem}"
    return kept(name, lambda folder: _merge_causal(folder, source, cached)) / MERGED


def _merge_causal(folder: Path, source: Path, cached: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    later = onnx.load(cached)
    names = [value.name for value in later.graph.input if "past" not in value.name]
    outputs = [value.name for value in later.graph.output]

    class First(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            result = self.inner(**dict(zip(names, tensors, strict=True)), use_cache=True)
            layers = result.past_key_values.layers
            return (result.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))

    feeds = {
        "input_ids": torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]]),
        "attention_mask": torch.ones((2, 4), dtype=torch.int64),
        "position_ids": torch.arange(4).expand(2, 4),
    }
    folder.mkdir()
    with quiet():
        torch.onnx.export(
            First().eval(),
            tuple(feeds[name] for name in names),
            folder / FIRST,
            dynamo=False,
            opset_version=later.opset_import[0].version,
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in [*names, outputs[0]]}
            | {name: {0: "batch", 2: "total"} for name in outputs[1:]},
        )
    onnx.save(later, folder / LATER)
    merge(folder)
