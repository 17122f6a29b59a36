"""Operands of a fused operator that has its map as a further output.

The operator stays, and its own output is used for unflagged samples. For flagged samples, P·V over the unflagged
columns is computed next to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..emit import Emitter
from .canonical import EXACT
from .operands import Remainder

__all__ = ["Tapped", "join_heads", "repeat_heads", "split_heads"]


@dataclass(frozen=True)
class Tapped:
    """Implements `lowering.operands.Operands`.

    Attributes:
        probabilities: value name, (B, H, Q, K).
        output: the operator's own output, (B, H, Q, D), or (B, Q, H·D) when `heads` is given.
        heads: H when the heads are part of the features of the output; None when they have their own axis.
        dtype: element type of all of them.
        emit_values: emits the values, (B, H, K, D) of that element type.
        may_hide_rows: a mask may leave a row without a column; if its entries become NaN, this single row would make
            all column statistics NaN.
    """

    probabilities: str
    output: str
    heads: int | None
    dtype: int
    emit_values: Callable[[Emitter], str]
    may_hide_rows: bool = False

    def map(self, e: Emitter) -> str:
        probabilities = self._float(e, self.probabilities)
        return _without_nan_rows(e, probabilities) if self.may_hide_rows else probabilities

    def values(self, e: Emitter) -> str:
        return self._float(e, self.emit_values(e))

    def remainder(self, e: Emitter, columns: str, kept_values: str | None = None) -> Remainder:
        visible = kept_values or e.op("Where", e.mask_of_values(columns), e.constant(0.0, np.float32), self.values(e))
        product = e.op("MatMul", self._float(e, self.probabilities), visible, role="product_unflagged")
        return Remainder(product, self.canonical(e, self.output), self.output)

    def original(self, e: Emitter) -> str:
        return e.op("Identity", self.output, role="product")

    def canonical(self, e: Emitter, output: str) -> str:
        output = output if self.dtype in EXACT else e.float(output)
        return output if self.heads is None else split_heads(e, output, self.heads)

    def restore(self, e: Emitter, output: str, like: str) -> str:
        joined = output if self.heads is None else join_heads(e, output)
        return joined if self.dtype in EXACT else e.cast(joined, self.dtype)

    def _float(self, e: Emitter, x: str) -> str:
        return x if self.dtype == TensorProto.FLOAT else e.float(x)


def _without_nan_rows(e: Emitter, probabilities: str) -> str:
    """The map with rows of NaN set to 0; a Softmax makes a whole row NaN or none of it, so column 0 is enough."""
    hidden = e.op("IsNaN", e.op("Gather", probabilities, e.constant(0, np.int64), axis=3))

    def cleaned(inner: Emitter) -> str:
        return inner.op("Where", inner.unsqueeze(hidden, 3), inner.constant(0.0), probabilities, role="map_cleaned")

    if not e.conditional:
        return cleaned(e)
    any_hidden = e.op("Greater", e.reduce("Max", e.float(hidden), 0, 1, 2, keepdims=False), e.constant(0.5))
    # Copying the map takes less than half the time of rewriting it.
    return e.either(
        any_hidden, cleaned, lambda inner: inner.op("Identity", probabilities), TensorProto.FLOAT, role="map_checked"
    )


def split_heads(e: Emitter, x: str, heads: int) -> str:
    """(B, S, H·D) → (B, H, S, D)."""
    apart = e.op("Reshape", x, e.constant([0, 0, heads, -1], np.int64))
    return e.op("Transpose", apart, perm=[0, 2, 1, 3])


def join_heads(e: Emitter, x: str) -> str:
    """(B, H, S, D) → (B, S, H·D)."""
    return e.op("Reshape", e.op("Transpose", x, perm=[0, 2, 1, 3]), e.constant([0, 0, -1], np.int64))


def repeat_heads(e: Emitter, x: str, probabilities: str) -> str:
    """(B, H_kv, S, D) → (B, H, S, D) for a map (B, H, Q, S), each head H / H_kv times in a row (grouped queries)."""
    groups = e.op("Div", e.dims(probabilities, 1, 2), e.dims(x, 1, 2))
    wide = e.op("Expand", e.unsqueeze(x, 2), e.shape(1, 1, groups, 1, 1))
    return e.reshape(wide, e.dims(x, 0, 1), -1, e.dims(x, 2))
