"""Whether queries and keys of a score product come from the same tokens.

Both factors are followed back to their *roots*, the values that the first projection read. Equal roots mean self-attention:

1. Shape moves, constants, rotary arithmetic, normalisation of heads and quantisation are looked through.
2. A product with a constant weight (or a convolution) is a projection: its data input is a root.
3. A past cache joined to the keys is one more root, so decoding with a cache is not self-attention.
4. Roots that differ are compared once more after the next projections back (low-rank projections), where nothing between
   the projections may pick tokens.
5. Where one factor is cut or gathered from more often than the other, the two sizes must be known to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from .backward import Scores
from .facts import Facts
from .products import product_operands
from .view import View, attribute, op_types, operand

__all__ = ["is_self_attention", "same_tokens"]

_MAX_VISITS = 256
_LEVELS = 3
_PROJECTIONS = op_types("Conv ConvInteger QLinearConv MatMulNBits MatMulBnb4")
_TOKEN_WISE = op_types(
    "Add BiasGelu Cast CastLike Clip Cos DequantizeLinear Div Dropout DynamicQuantizeLinear Expand Flatten Gelu Identity "
    "LayerNormalization LpNormalization Max Min Mul Neg Pow QLinearAdd QLinearMul QuantizeLinear RMSNormalization Reciprocal ReduceL2 "
    "ReduceMean ReduceSum Relu Reshape RotaryEmbedding SimplifiedLayerNormalization Sin Sqrt Squeeze Sub Transpose Unsqueeze Where"
)
_PICKING = op_types("Concat Gather Slice Split")
_DATA_FIRST = op_types("Gather Reshape Expand Slice Split Squeeze Unsqueeze")
_BARE = op_types("Cast Identity QuantizeLinear DequantizeLinear DynamicQuantizeLinear Reshape")


@dataclass
class _Roots:
    """Roots of a value; `picks`: operators passed that pick from an axis; `projected`: every root is the input of a projection."""

    values: set[ir.Value] = field(default_factory=set)
    picks: int = 0
    projected: bool = True


def is_self_attention(view: View, facts: Facts, scores: Scores) -> bool:
    """True only where it can be shown; see the rule above."""
    first, second = scores.operands.first, scores.operands.second
    if scores.learned or first is None or second is None:
        return False
    return same_tokens(view, facts, first, second, _sizes_equal(facts, scores))


def same_tokens(view: View, facts: Facts, queries: ir.Value, keys: ir.Value, equal: bool | None) -> bool:
    """The rule above for two factors; `equal`: whether there are as many queries as keys, None when that is not known."""
    a, b = _walk_back(view, facts, queries, picking=True), _walk_back(view, facts, keys, picking=True)
    if equal is False or (a.picks != b.picks and equal is None):
        return False
    roots_a, roots_b = a.values, b.values
    for _ in range(_LEVELS):
        if roots_a and roots_a == roots_b:
            return True
        roots_a, roots_b = _before(view, facts, roots_a), _before(view, facts, roots_b)
    return False


def _sizes_equal(facts: Facts, scores: Scores) -> bool | None:
    """Whether there are as many query rows as key columns; None when that is not known."""
    output = scores.node.outputs[0]
    if scores.node.op_type == "Einsum":
        return None
    trailing = scores.additive and facts.static(output, -1) == 1  # additive scores come as (B, Q, K, 1)
    rows, columns = (facts.dim(output, axis - trailing) for axis in (-2, -1))
    if rows is None or columns is None:
        return None
    if rows == columns:
        return True
    return False if isinstance(rows, int) and isinstance(columns, int) else None


def _before(view: View, facts: Facts, roots: set[ir.Value]) -> set[ir.Value]:
    """Roots one projection further back; one that leads to no single projection stays."""
    further: set[ir.Value] = set()
    for value in roots:
        deeper = _walk_back(view, facts, value, picking=False)
        further |= deeper.values if deeper.projected and len(deeper.values) == 1 else {value}
    return further


def _walk_back(view: View, facts: Facts, start: ir.Value, picking: bool) -> _Roots:
    roots = _Roots()
    waiting, seen = [start], {start}
    while waiting:
        value = waiting.pop()
        node = value.producer()
        sources: list[ir.Value | None] = list(view.backward.get(value, ()))
        if not sources and node is not None:
            data = _projected(view, node)
            if data is not None:
                roots.values.add(_bare(data))
                continue
            if node.op_type in ("Shape", "Size") or (node.op_type == "DynamicQuantizeLinear" and value is not node.outputs[0]):
                continue
            if len(seen) < _MAX_VISITS and (
                node.op_type in _TOKEN_WISE or (node.op_type in _PICKING and (picking or _picks_features(facts, node)))
            ):
                sources = [operand(node, 0)] if node.op_type in _DATA_FIRST else list(node.inputs)
                roots.picks += node.op_type in _PICKING
        if not sources:
            roots.values.add(value)
            roots.projected = False
        for source in sources:
            if source is not None and source not in seen and not view.is_constant(source):
                seen.add(source)
                waiting.append(source)
    return roots


def _picks_features(facts: Facts, node: ir.Node) -> bool:
    """A Split along the last axis takes features apart, not tokens."""
    axis, rank = attribute(node, "axis", 0), facts.rank(operand(node, 0))
    return node.op_type == "Split" and (axis == -1 or (rank is not None and axis == rank - 1))


def _projected(view: View, node: ir.Node) -> ir.Value | None:
    """Data input of a projection."""
    if node.op_type in _PROJECTIONS:
        return operand(node, 0)
    factors = product_operands(node)
    if factors is None:
        return None
    constant = view.is_constant(factors.first), view.is_constant(factors.second)
    return factors.first if constant == (False, True) else factors.second if constant == (True, False) else None


def _bare(value: ir.Value) -> ir.Value:
    """The value behind casts, Q/DQ pairs and reshapes, which exporters insert once for each reader."""
    node = value.producer()
    while node is not None and node.op_type in _BARE:
        source = operand(node, 0)
        if source is None:
            break
        value, node = source, source.producer()
    return value
