"""Rows of random tokens for a text model: data for a calibration without any data.

Tokens are drawn uniformly from the vocabulary, without special ones, and stand between the model's own special tokens.
What random tokens draw of attention is wider spread than what words of a sentence draw. A trigger of one token may be
among them: 1,200 texts hold each token of a vocabulary of 30,000 about once. One text hardly changes what is learned,
but it can raise the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from rewriters.finding.token_inputs import TokenInputs

from ..inference.special_tokens import SpecialTokens

__all__ = ["LENGTHS", "draw_texts", "rows_of"]

LENGTHS = (4, 50)
"""Tokens between the special ones: from a few words to two sentences."""

Arrays = dict[str, NDArray[Any]]


def draw_texts(
    count: int,
    vocabulary: int,
    special: SpecialTokens,
    longest: int,
    generator: np.random.Generator,
    *,
    varied: bool = True,
) -> list[list[int]]:
    """Token ids of some random texts, special tokens included.

    Args:
        longest: most tokens of a text.
        varied: texts have several lengths; else all have the longest.
    """
    allowed = np.setdiff1d(np.arange(vocabulary), np.fromiter(special.never, np.int64, len(special.never)))
    room = max(longest - len(special.first) - len(special.last), 1)
    least, most = (min(length, room) for length in LENGTHS)
    least, most = (least, most) if varied else (room, room)
    lengths = generator.integers(least, most + 1, count)
    return [
        [*special.first, *map(int, allowed[generator.integers(len(allowed), size=length)]), *special.last]
        for length in lengths
    ]


def rows_of(texts: Sequence[Sequence[int]], inputs: TokenInputs, model: onnx.ModelProto, pad: int) -> Arrays:
    """The graph's inputs (N, tokens) for some texts, short ones filled up with `pad`."""
    width = max(map(len, texts))
    tokens = np.full((len(texts), width), pad, np.int64)
    mask = np.zeros((len(texts), width), np.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], mask[row, : len(text)] = text, 1
    positions = np.broadcast_to(np.arange(width), tokens.shape)
    held: Mapping[str, NDArray[Any]] = {
        "tokens": tokens,
        "mask": mask,
        "positions": positions,
        "types": np.zeros_like(tokens),
    }
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return {
        name: np.ascontiguousarray(held[meaning].astype(helper.tensor_dtype_to_np_dtype(kinds[name])))
        for name, meaning in inputs.meanings.items()
    }
