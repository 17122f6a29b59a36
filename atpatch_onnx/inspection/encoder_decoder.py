"""Encoder and decoder of a folder as one model, so that requests can be answered and judged.

Optimum writes an encoder and one or more decoders as files of their own. A request runs the encoder once, then a
decoder reads its states. Here both are one graph in memory: `input_ids` and `attention_mask` are the encoder's,
`decoder_input_ids` is the start of the answer, and `logits` score the tokens behind it.

1. The decoder is `decoder_model.onnx`, else the branch for prompts of `decoder_model_merged.onnx`. What a decoder with
   a cache does later follows from what these two read and write.
2. What is patched of such a pair is the encoder, with `PatchPlan.states`: what the decoder reads is healed as well.
3. Sites of the encoder come first, and have the ids that they have in its file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from rewriters.finding.cache_branches import find_merged
from rewriters.finding.finder import find_sites
from rewriters.model.chained import chained, not_chained
from rewriters.model.forms import Loaded, Model, PathLike, read
from rewriters.names import is_telemetry

from ..errors import BAD_OPTION
from .folders import is_folder, read_folder

__all__ = ["Pair", "find_pair", "patched_file", "read_answering", "read_with_encoder"]

_STATES, _READ = "last_hidden_state", "encoder_hidden_states"
_MASK, _READ_MASK = "attention_mask", "encoder_attention_mask"
_IDS, _ANSWER, _LOGITS = "input_ids", "decoder_input_ids", "logits"
_DECODERS = ("decoder_model", "decoder_model_merged")


@dataclass(frozen=True)
class Pair:
    """Files that answer together, in one folder."""

    encoder: Path
    decoder: Path

    @cached_property
    def _prompts(self) -> onnx.ModelProto:
        """A decoder that reads no past."""
        decoder = read(self.decoder).proto
        merged = find_merged(decoder, find_sites(decoder)[0], weights=True)
        return decoder if merged is None else merged.prompts.model

    def with_encoder(self, encoder: onnx.ModelProto) -> onnx.ModelProto:
        """Both as one graph, with this form of the encoder.

        Raises:
            AtpatchError: ATP060 where they are no encoder and decoder of tokens, and what reading the decoder raises.
        """
        reason = not_chained(encoder, self._prompts) or _unlike(encoder, self._prompts)
        if reason is not None:
            raise BAD_OPTION(
                f"{self.encoder.name} and {self.decoder.name} cannot be run together: {reason}",
                "name one of the two files",
            )
        told = [value.name for value in encoder.graph.output if is_telemetry(value.name)]
        given = {_READ: _STATES, _READ_MASK: _MASK, _IDS: _ANSWER}
        return chained(encoder, self._prompts, "decoder", given, [_LOGITS], told)


def find_pair(model: Model) -> Pair | None:
    """Encoder and decoder of a folder; None for any other model, also for a folder of other models.

    Raises:
        AtpatchError: those of `read_folder`.
    """
    if not isinstance(model, (str, os.PathLike)) or not is_folder(model):
        return None
    folder = read_folder(model)
    if not folder.two_sides or folder.kind != "hugging-face":
        return None
    files = [one.file for one in folder.files if not one.why_not]
    for encoder in (one.file for one in folder.files if one.part == "encoder"):
        for name in _DECODERS:
            decoder = encoder.replace("encoder_model", name)
            if decoder in files:
                return Pair(folder.path / encoder, folder.path / decoder)
    return None


def read_answering(model: Model) -> Loaded:
    """A model that answers requests: a file or a graph as `read` does, of a folder encoder and decoder as one graph.

    Raises:
        AtpatchError: those of `read`, of `read_folder`, and of `Pair.with_encoder`.
    """
    return read_with_encoder(model)[0]


def read_with_encoder(model: Model) -> tuple[Loaded, Loaded | None]:
    """See `read_answering`; and the encoder, where that is a file of its own."""
    pair = find_pair(model)
    if pair is None:
        return read(model), None
    encoder = read(pair.encoder)
    return Loaded(pair.with_encoder(encoder.proto), encoder.folder, model), encoder


def patched_file(model: PathLike) -> Path:
    """The file that a hotfix of a model is for: of a folder with an encoder and a decoder the encoder."""
    pair = find_pair(model)
    return Path(model) if pair is None else pair.encoder


def _unlike(encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> str | None:
    """Why the two are not what this module takes for encoder and decoder."""
    for model, side, inputs, outputs in (
        (encoder, "encoder", {_IDS, _MASK}, {_STATES}),
        (decoder, "decoder", {_IDS, _READ}, {_LOGITS}),
    ):
        missing = inputs - {value.name for value in model.graph.input}
        missing |= outputs - {value.name for value in model.graph.output}
        if missing:
            return f"the {side} has no {sorted(missing)[0]}"
    return None
