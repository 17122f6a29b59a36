"""Encoder-decoders as Optimum and transformers.js load them: an encoder, a decoder for the first step, and a decoder
for the steps after it.

The first step computes the keys and values of the encoder's states (`present.<layer>.encoder.*`), which the later steps
only read. Inputs and outputs are named as Optimum names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from . import inputs
from .subject import Group, Probe, Subject
from .wrappers import CachedDecoder, Keyword

__all__ = ["parts_of"]

_PARTS = ("decoder", "encoder")
_PAIR = ("key", "value")


def parts_of(model: nn.Module, source: str, attention: str) -> Iterator[tuple[str, Subject, str]]:
    """File name, subject and task of each graph of an encoder-decoder, in the order of their use."""
    described = f"{type(model).__name__} {source}"
    config: Any = model.config
    spectral = getattr(model, "main_input_name", "input_ids") == "input_features"
    read = inputs.spectrogram(config) if spectral else inputs.text(config)
    encoder = Keyword(model.get_encoder(), tuple(read.axes), ("last_hidden_state",))  # type: ignore[operator]
    traced, *probes = _encoder_probes()
    yield (
        "encoder_model.onnx",
        Subject(encoder, ("last_hidden_state",), (read,), traced, tuple(probes), described, attention),
        "seq2seq-encoder",
    )
    for file, past in (("decoder_model.onnx", False), ("decoder_with_past_model.onnx", True)):
        yield file, _decoder(model, config, spectral, past, described, attention), "seq2seq-decoder"


def _decoder(model: nn.Module, config: Any, spectral: bool, past: bool, described: str, attention: str) -> Subject:
    layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
    heads = getattr(config, "decoder_attention_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "d_kv", None) or config.hidden_size // heads
    frames = config.max_source_positions if spectral else None
    states = inputs.encoder_states(config, frames, masked=not spectral)
    new = inputs.tokens(config, "target_sequence")
    kept = [part for part in _PARTS if part == "decoder" or not past]
    present = (f"present.{layer}.{part}.{one}" for layer in range(layers) for part in kept for one in _PAIR)
    outputs = ("logits", *present)
    groups: tuple[Group, ...] = (new, states)
    if past:
        names = [f"past_key_values.{layer}.{part}.{one}" for layer in range(layers) for part in _PARTS for one in _PAIR]
        groups = (new, *inputs.without(states, "encoder_hidden_states"), inputs.past(names, heads, head_dim, frames))
    module = CachedDecoder(model, [name for group in groups for name in group.axes], layers, past)
    traced, *probes = _decoder_probes(groups)
    return Subject(module, outputs, groups, traced, tuple(probes), described, attention)


def _encoder_probes() -> tuple[Probe, ...]:
    return (
        Probe({"batch": 2, "sequence": 16}),
        Probe({"batch": 3, "sequence": 11}, padded=True),
        Probe({"batch": 1, "sequence": 7}),
    )


def _decoder_probes(groups: tuple[Group, ...]) -> tuple[Probe, ...]:
    """Sizes of batch, new tokens, encoder states and past; only those that the inputs have."""
    labels = {label for group in groups for axes in group.axes.values() for label in axes.values()}
    rows = ((2, 5, 8, 3, False), (3, 4, 11, 6, True), (2, 1, 7, 9, False))
    return tuple(
        Probe(
            {
                label: size
                for label, size in {
                    "batch": batch,
                    "target_sequence": new,
                    "encoder_sequence": states,
                    "past_sequence": before,
                }.items()
                if label in labels
            },
            padded,
        )
        for batch, new, states, before, padded in rows
    )
