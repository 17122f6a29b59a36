"""The map of a `com.microsoft` operator, computed next to it from the operator's own queries, keys and masks.

Why not use the operator's output of scores (`qk` of MultiHeadAttention, `output_qk` of GroupQueryAttention)?

1. On the CPU provider that output includes masks and bias; on CUDA, by its source, it is written before them, and with
   a padding mask not at all. GroupQueryAttention refuses it on CUDA and WebGPU.
2. With this output an operator without masks does not use flash attention, so its own output is no longer bit-identical
   to the original.

Computed next to it, the map costs one more product of queries and keys (measured: about as fast as the other way), and
the operator is unchanged on every provider.

Shape letters: B samples, N heads, S query rows, T key columns, H head size. All maps and scores are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from ..emit import Emitter
from .microsoft_padding import Padding
from .microsoft_parts import TO_END, attributes_of, columns_of, part

__all__ = [
    "LOWEST",
    "MASK_FILTER",
    "HeadsSource",
    "apart",
    "causal_bias",
    "knows_rows",
    "map_of",
    "rows_of",
    "scaled",
]

MASK_FILTER = -10000.0
"""Default of `mask_filter_value`; such a column has weight exactly 0 after a float32 Softmax."""

LOWEST = float(np.finfo(np.float32).min)
"""The number that the operators add to the score of a column that the causal mask hides."""


def apart(e: Emitter, x: str, heads: int) -> str:
    """(B, S, N·H) → (B, S, N, H)."""
    return e.op("Reshape", x, e.constant([0, 0, heads, -1], np.int64))


@dataclass(frozen=True)
class HeadsSource:
    """A value that holds keys or values, float32: (B, T, N, H), or (B, N, T, H) when heads come first."""

    value: str
    heads_first: bool

    def canonical(self, e: Emitter) -> str:
        """(B, N, T, H)."""
        return self.value if self.heads_first else e.op("Transpose", self.value, perm=[0, 2, 1, 3])

    def last(self, e: Emitter) -> str:
        """(B, N, H, T)."""
        return e.op("Transpose", self.value, perm=[0, 1, 3, 2] if self.heads_first else [0, 2, 3, 1])

    def columns(self, e: Emitter) -> str:
        """T as a 1-D int64 value."""
        return e.dims(self.value, 2, 3) if self.heads_first else e.dims(self.value, 1, 2)

    def with_column(self, e: Emitter, x: str) -> HeadsSource:
        """The same with one more feature, x (B, T), which is equal for all heads."""
        wide = e.op("Expand", e.unsqueeze(x, 1 if self.heads_first else 2, 3), e.shape(e.dims(self.value, 0, 3), 1))
        return HeadsSource(e.op("Concat", self.value, wide, axis=3), self.heads_first)


def scaled(e: Emitter, query: str, scale: float) -> str:
    """Queries (..., H) times the scale; 0 stands for 1 / √H."""
    if scale:
        return e.op("Mul", query, e.constant(scale))
    return e.op("Div", query, e.op("Sqrt", e.size(part(e, e.op("Shape", query), 0, -1, TO_END))))


def map_of(
    e: Emitter,
    node: onnx.NodeProto,
    query: str,
    key: HeadsSource,
    past: str | None,
    padding: Padding | None,
    attention_bias: str | None,
    few: bool = False,
) -> str:
    """The map (B, N, S, T) by the rules of Attention and MultiHeadAttention.

    Args:
        node: gives `scale`, `mask_filter_value` and `unidirectional`.
        query: (B, S, N, H), float32.
        key: all keys, cache included.
        past: number of cached columns, 1-D int64.
        attention_bias: (B | 1, N | 1, S, T), float32.
        few: there are few rows, so adding a bias to the scores costs less than adding it to the keys.
    """
    attributes = attributes_of(node)
    ready = scaled(e, query, attributes.get("scale", 0.0))
    columns = key.columns(e)
    biases = []
    if padding is not None:
        bias = padding.bias(e, attributes.get("mask_filter_value", MASK_FILTER))
        if padding.rows_differ:
            biases.append(e.unsqueeze(bias, 1))
        elif few:
            biases.append(e.unsqueeze(bias, 1, 2))
        else:
            # A bias per column becomes one more feature of the keys, with 1 in all queries. An Add would go through the
            # whole map again.
            key = key.with_column(e, bias)
            ready = e.op("Pad", ready, e.constant([0, 0, 0, 0, 0, 0, 0, 1], np.int64), e.constant(1.0))
    if attributes.get("unidirectional"):
        biases.append(causal_bias(e, e.dims(query, 1, 2), columns, past))
    if attention_bias is not None:
        biases.append(attention_bias)
    scores = e.op("MatMul", e.op("Transpose", ready, perm=[0, 2, 1, 3]), key.last(e), role="scores")
    if biases:
        # Biases are small tensors and scores are large, so biases are added up first.
        joined = biases[0]
        for further in biases[1:]:
            joined = e.op("Add", joined, further)
        scores = e.op("Add", scores, joined, role="scores")
    return e.op("Softmax", scores, axis=-1, role="map")


def rows_of(
    e: Emitter,
    node: onnx.NodeProto,
    query: str,
    key: HeadsSource,
    padding: Padding | None,
    every: int,
    further: tuple[int, ...],
) -> str:
    """Rows 0, `every`, 2 · `every`, ... and the further ones of the map of `map_of`, without a cache and a bias.

    Args: see `map_of`.
    """
    chosen = e.strided(query, 1, every)
    if further:
        chosen = e.op("Concat", chosen, e.op("Gather", query, e.constant(further, np.int64), axis=1), axis=1)
    return map_of(e, node, chosen, key, None, padding, None, few=True)


def knows_rows(node: onnx.NodeProto, past: str | None, padding: Padding | None, attention_bias: str | None) -> bool:
    """Whether `rows_of` may be used: nothing that is added to the scores differs by rows."""
    plain = past is None and attention_bias is None and not attributes_of(node).get("unidirectional")
    return plain and not (padding is not None and padding.rows_differ)


def causal_bias(e: Emitter, rows: str, columns: str, past: str | None) -> str:
    """The bias (S, T) for `unidirectional`: row i sees the past and columns up to its own; the last row sees all.

    Args:
        rows, columns, past: S, T and the number of cached columns, 1-D int64.
    """
    at = columns_of(e, rows)
    last = e.op("Sub", rows, e.constant([1], np.int64))
    limit = at if past is None else e.op("Add", at, past)
    limit = e.op("Where", e.op("Equal", at, last), columns, limit)
    hidden = e.op("Greater", e.unsqueeze(columns_of(e, columns), 0), e.unsqueeze(limit, 1))
    return e.op("Where", hidden, e.constant(LOWEST), e.constant(0.0), role="causal")
