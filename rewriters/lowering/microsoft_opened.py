"""An attention operator of `com.microsoft` written out: its scores, map and product become nodes of the graph.

So the detector reads the very map that makes the output, and nothing is computed twice. On the CPU provider the result
is bit-identical to the operator's, whose kernel is the same three routines in the same order: a product of queries and
keys with the scale as a factor, Softmax, a product with the values. Measured with float32, one thread, 12 heads of 32:
the operator written out takes 1.04 of its time with 512 tokens, with its map computed next to it 1.5.

1. Float32, where an If may be emitted. No cache, and no `attention_bias`: the operator adds a bias to its scores before
   they are rounded.
2. With a padding mask of rank 1 or 2, or `unidirectional`, or neither, but not both. What is hidden by one of them has
   the weight 0 in every row, so it does not matter how the large number is added.
3. In a sample without any column left all scores get that number, and the way of adding it shows in the last digits of
   the weights. There the operator itself computes the output (`Opened.unsure`).
4. MultiHeadAttention only with a mask or `unidirectional`: without, it uses flash attention, which sums in another
   order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..sites import Site
from .microsoft_padding import Padding, all_columns
from .microsoft_parts import attributes_of
from .microsoft_scores import MASK_FILTER, causal_bias
from .operands import Remainder
from .tapped import join_heads, split_heads

__all__ = ["Heads", "Opened", "can_open", "open_operator"]

_MOST = 1e30
"""Of a number that hides a column, before it is scaled: far from what overflows."""


@dataclass(frozen=True)
class Heads:
    """Queries (B, N, S, H), keys (B, N, T, H) and values (B, N, T, D) of all heads, float32."""

    query: str
    key: str
    value: str


@dataclass(frozen=True)
class Opened:
    """Implements `lowering.operands.Operands`.

    Attributes:
        probabilities: the map (B, N, S, T).
        value: (B, N, T, D).
        heads: N.
        valid: (B, T) bool, the columns that the padding mask keeps; None where the site's own mask tells.
        unsure: 0-d bool, whether some sample has no column left (rule 3); None where this cannot be.
        emit_operator: emits the operator itself, its output (B, S, N·D).
    """

    probabilities: str
    value: str
    heads: int
    valid: str | None
    unsure: str | None
    emit_operator: Callable[[Emitter], str]
    dtype: int = TensorProto.FLOAT

    def map(self, e: Emitter) -> str:
        return self.probabilities

    def values(self, e: Emitter) -> str:
        return self.value

    def remainder(self, e: Emitter, columns: str, kept_values: str | None = None) -> Remainder:
        visible = kept_values or e.op("Where", e.mask_of_values(columns), e.constant(0.0), self.value)
        product = e.op("MatMul", self.probabilities, visible, role="product_unflagged")
        untouched = product
        if self.unsure is not None:
            untouched = e.either(
                self.unsure,
                lambda inner: self.canonical(inner, self.emit_operator(inner)),
                lambda inner: inner.op("Identity", product),
                self.dtype,
                role="untouched",
            )
        return Remainder(product, untouched, untouched)

    def original(self, e: Emitter) -> str:
        if self.unsure is None:
            return self.product(e)
        return e.either(self.unsure, self.emit_operator, self.product, self.dtype, role="product")

    def product(self, e: Emitter) -> str:
        """The original output (B, S, N·D), where every sample has a column left."""
        return join_heads(e, e.op("MatMul", self.probabilities, self.value, role="product"))

    def canonical(self, e: Emitter, output: str) -> str:
        return split_heads(e, output, self.heads)

    def restore(self, e: Emitter, output: str, like: str) -> str:
        return join_heads(e, output)


def can_open(e: Emitter, site: Site, node: onnx.NodeProto, mask_rank: int, *, plain: bool, flash: bool) -> bool:
    """Whether rules 1, 2 and 4 hold.

    Args:
        mask_rank: 0 without a padding mask.
        plain: without a cache, present outputs and a bias.
        flash: whether the operator uses flash attention where nothing forbids it.
    """
    attributes = attributes_of(node)
    causal = bool(attributes.get("unidirectional"))
    if not (e.conditional and plain) or site.dtype != TensorProto.FLOAT or _scale(site, node) is None:
        return False
    if mask_rank == 3 or (mask_rank and causal) or (flash and not mask_rank and not causal):
        return False
    return not mask_rank or attributes.get("mask_filter_value", MASK_FILTER) <= MASK_FILTER


def open_operator(
    e: Emitter, site: Site, node: onnx.NodeProto, of: Heads, padding: Padding | None, operator: Callable[[Emitter], str]
) -> Opened:
    """Emit scores and map, where `can_open`; `operator` emits the operator itself."""
    attributes, scale = attributes_of(node), _scale(site, node)
    assert scale is not None
    heads = int(attributes["num_heads"])
    query, key = of.query, of.key
    if padding is not None:
        # A number per column becomes one more feature of the keys, with 1 in all queries: an Add would go through the
        # whole map once more.
        query = e.op("Pad", query, e.constant([0, 0, 0, 0, 0, 0, 0, 1], np.int64), e.constant(1.0))
        filtered = max(attributes.get("mask_filter_value", MASK_FILTER) / scale, -_MOST)
        column = _shared(e, site, f"hidden:{padding.kept}:{filtered}:{heads}", _column(padding.kept, filtered, heads))
        key = e.op("Concat", key, column, axis=3)
    scores = e.op("FusedMatMul", query, key, role="scores", domain="com.microsoft", transB=1, alpha=scale)
    if attributes.get("unidirectional"):
        hidden = causal_bias(e, e.dims(of.query, 2, 3), e.dims(of.key, 2, 3), None)
        scores = e.op("Add", scores, hidden, role="scores")
    probabilities = e.op("Softmax", scores, axis=-1, role="map")
    valid = unsure = None
    if padding is not None:
        unsure = _shared(e, site, f"unsure:{padding.kept}", _unsure(padding.kept))
    if site.key_mask is None and padding is not None:
        valid = padding.kept
    elif site.key_mask is None:
        valid = _shared(
            e,
            site,
            f"valid:{site.size}",
            lambda body: all_columns(body, body.dims(of.query, 0, 1), body.dims(of.key, 2, 3)),
        )
    return Opened(probabilities, of.value, heads, valid, unsure, operator)


def _scale(site: Site, node: onnx.NodeProto) -> float | None:
    """The factor of the scores, as the kernel computes it; None where the head size is not known."""
    given = float(attributes_of(node).get("scale", 0.0))
    if given or site.query_dim is None:
        return given or None
    return float(np.float32(1) / np.sqrt(np.float32(site.query_dim)))


def _shared(e: Emitter, site: Site, key: str, make: Callable[[Emitter], str]) -> str:
    """What is made only of the kept columns, or of their number: once for all sites that share these."""
    return e.shared(key, make) if site.size is not None else e.once(key, lambda: make(e))


def _column(kept: str, value: float, heads: int) -> Callable[[Emitter], str]:
    """(B, N, T, 1), `value` at columns that are not kept, else 0."""

    def made(e: Emitter) -> str:
        number = e.op("Where", kept, e.constant(0.0), e.constant(value), role="padding")
        return e.op("Expand", e.unsqueeze(number, 1, 3), e.constant([1, heads, 1, 1], np.int64))

    return made


def _unsure(kept: str) -> Callable[[Emitter], str]:
    """Whether a sample of kept columns (B, T) has none."""

    def made(e: Emitter) -> str:
        number = e.once(f"float:{kept}", lambda: e.number(kept))
        left = e.peak(number, 1, keepdims=False)
        none_left = e.number(e.op("Less", left, e.constant(0.5)))
        return e.cast(e.peak(none_left, 0, keepdims=False), TensorProto.BOOL)

    return made
