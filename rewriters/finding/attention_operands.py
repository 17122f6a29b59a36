"""Queries, keys and values of every attention of a model, as they enter it.

1. A fused operator has them as inputs, separate or packed into one. This also holds for operators whose map cannot be
   computed, so attention that is no site is listed too.
2. Elsewhere keys are the factor of the score product that makes the columns, values the other factor of P·V.
3. Attention that keeps its keys and values to itself (packed weights, linear attention), or that the finder rejected
   near a product, is listed with the reason why they cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..sites import Rejection, Site
from .backward import Scores, arrival
from .finder import Searched
from .forward import Hit
from .index_trace import through
from .products import product_operands
from .self_attention import along
from .softmax_match import Anchor
from .token_index import index_of
from .trace import Finding
from .view import attribute, is_standard, op_types, operand

__all__ = ["AttentionOperands", "Packed", "attention_operands"]

_SEPARATE = op_types(
    "Attention DecoderMaskedMultiHeadAttention GroupQueryAttention MultiHeadAttention PagedAttention SparseAttention"
)
"""They have queries, keys and values as inputs 0 to 2."""
_PACKED_AXIS, _PACKED_RANK = 3, 5
_UNREACHED = (
    "quantized-product",
    "product-form",
    "signed-map",
    "mixed-map",
    "unproven-tokens",
    "lost-axis",
    "unknown-operator",
    "rank",
    "flatten",
    "scores-form",
    "axis",
    "unreadable",
)
"""Rejections of maps that may be attention all the same."""


@dataclass(frozen=True)
class Packed:
    """Queries, keys and values in one value: the first `queries` of `size` entries of a negative axis are queries."""

    axis: int
    queries: int
    size: int


@dataclass(frozen=True)
class AttentionOperands:
    """One attention.

    Attributes:
        node: the product of map and values, or the fused operator.
        site: id of its site; None where it is no site.
        name: what to call it.
        queries, keys, values: as they enter; one of them may be unknown.
        readers: nodes that read keys or values as such.
        packed: keys and values are parts of `keys`, together with queries.
        key_axis: negative axis of `keys` that counts the columns; None where that is not known.
        obstacle: why keys and values cannot be reached; "" where they can.
    """

    node: ir.Node
    site: str | None
    name: str
    queries: ir.Value | None = None
    keys: ir.Value | None = None
    values: ir.Value | None = None
    readers: tuple[ir.Node, ...] = ()
    packed: Packed | None = None
    key_axis: int | None = None
    obstacle: str = ""

    def entries(self) -> Iterator[tuple[tuple[ir.Node, int], str]]:
        """Where queries, keys and values enter: (node, input) and the role, "keys" for both keys and values."""
        for node in self.readers:
            for place, value in enumerate(node.inputs):
                if self.packed is not None and place == 0:
                    yield (node, place), "packed"
                elif value is not None and value is self.queries and (place == 0 or len(self.readers) > 1):
                    yield (node, place), "queries"
                elif value is not None and (value is self.keys or value is self.values):
                    yield (node, place), "keys"


def attention_operands(searched: Searched) -> Iterator[AttentionOperands]:
    """Every attention of all bodies, in no particular order."""
    ids = {one.node: one.verdict.id for one in searched.findings if one.fused and isinstance(one.verdict, Site)}
    fused = set()
    for node in searched.view.homes:
        found = _fused(searched, node, ids.get(node))
        if found is not None:
            fused.add(node)
            yield found
    for finding in searched.findings:
        if finding.node in fused:
            continue
        if isinstance(finding.verdict, Rejection):
            if finding.verdict.code in _UNREACHED:
                yield AttentionOperands(finding.node, None, finding.verdict.softmax, obstacle=finding.verdict.reason)
        elif finding.anchor is not None and finding.hit is not None and finding.scores is not None:
            yield _products(searched, finding, finding.verdict.id, finding.anchor, finding.hit, finding.scores)


def _fused(searched: Searched, node: ir.Node, site: str | None) -> AttentionOperands | None:
    if searched.view.function(node) is not None or not node.op_type.endswith(("Attention", "Attention_TRT")):
        return None
    name = site or node.name or node.op_type
    query, key, value = (operand(node, index) for index in range(3))
    weights_inside = node.op_type == "Attention" and not is_standard(node)
    if node.op_type not in _SEPARATE or weights_inside or query is None:
        return AttentionOperands(node, site, name, obstacle=f"{node.op_type} makes its keys and values inside")
    facts = searched.facts
    if key is None:
        packed = _packed_queries(searched, node, query)
        if packed is None:
            return AttentionOperands(
                node, site, name, obstacle=f"the width of the input of {node.op_type} is not known"
            )
        return AttentionOperands(node, site, name, query, query, None, (node,), packed)
    key_axis = -2 if facts.rank(key) == 4 else 1 - (facts.rank(key) or 3)
    return AttentionOperands(node, site, name, query, key, value, (node,), key_axis=key_axis)


def _packed_queries(searched: Searched, node: ir.Node, query: ir.Value) -> Packed | None:
    if searched.facts.rank(query) == _PACKED_RANK:
        return Packed(_PACKED_AXIS - _PACKED_RANK, 1, 3)
    width = searched.facts.static(query, -1)
    heads, key_heads = attribute(node, "num_heads", 0), attribute(node, "kv_num_heads", 0)
    parts = heads + 2 * key_heads
    if width is None or parts < 1 or width % parts:
        return None
    return Packed(-1, width // parts * heads, width)


def _products(
    searched: Searched, finding: Finding, site: str, anchor: Anchor, hit: Hit, scores: Scores
) -> AttentionOperands:
    node, factors = hit.product.node, product_operands(scores.node)
    if factors is None or not scores.matrix or scores.additive:
        return AttentionOperands(node, site, site, obstacle="its scores are no product of queries and keys")
    keys = _keys(searched, anchor, scores)
    queries = factors.first if keys is factors.second else factors.second
    if keys is None or queries is None or queries is keys:
        return AttentionOperands(node, site, site, obstacle="it is not known which factor of its scores is the keys")
    index = _column_index(searched, anchor, scores, keys)
    axis = None if index is None else index - (searched.facts.rank(keys) or 0)
    return AttentionOperands(node, site, site, queries, keys, hit.product.values, (scores.node, node), key_axis=axis)


def _keys(searched: Searched, anchor: Anchor, scores: Scores) -> ir.Value | None:
    """The factor that the columns come from."""
    view, facts = searched.view, searched.facts
    factors = scores.operands
    if scores.node.op_type == "Einsum":
        start = index_of(facts, anchor.output, anchor.axis)
        if start is None:
            return None
        index = along(view, facts, scores.node.outputs[0], scores.path, replace(start, value=anchor.scores))
        behind = through(view, facts, scores.node, index) if index is not None else None
        return behind[0].value if behind is not None and len(behind) == 1 else None
    rows = arrival(view, facts, scores.node, scores.path, -2) == anchor.axis
    return factors.first if rows else factors.second


def _column_index(searched: Searched, anchor: Anchor, scores: Scores, keys: ir.Value) -> int | None:
    """The axis of the keys that counts columns."""
    view, facts = searched.view, searched.facts
    output = scores.node.outputs[0]
    rank = facts.rank(output)
    if rank is None:
        return None
    for axis in range(rank):
        if arrival(view, facts, scores.node, scores.path, axis - rank) != anchor.axis:
            continue
        start = index_of(facts, output, axis)
        behind = through(view, facts, scores.node, start) if start is not None else None
        found = next((one for one in behind or () if one.value is keys and len(one.axes) == 1), None)
        return None if found is None else found.axes[0]
    return None
