"""Shape rules of `com.microsoft` operators in and around attention; onnx's shape inference knows none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from .facts import Dim, Dims, Facts
from .view import attribute, operand

__all__ = ["FUSED_SHAPES"]


def _rows(facts: Facts, node: ir.Node, width: int | None) -> Sequence[Dims | None]:
    """(B, S, width) for a first input (B, S, ...)."""
    shape = facts.shape(operand(node, 0))
    if shape is None or len(shape) < 2:
        return [(facts.fresh(), facts.fresh(), width or facts.fresh())]
    return [(*shape[:2], width or facts.fresh())]


def _attention(facts: Facts, node: ir.Node) -> Sequence[Dims | None]:
    sizes, whole = attribute(node, "qkv_hidden_sizes"), facts.static(operand(node, 1), -1)
    return _rows(facts, node, sizes[2] if sizes and len(sizes) == 3 else whole // 3 if whole else None)


def _multi_head(facts: Facts, node: ir.Node) -> Sequence[Dims | None]:
    heads: int = attribute(node, "num_heads", 1)
    value = operand(node, 2) or operand(node, 1) or operand(node, 0)
    width = facts.static(value, -1)
    flat = facts.rank(value) == 3
    return _rows(facts, node, None if width is None else width if flat else width * heads)


def _group_query(facts: Facts, node: ir.Node) -> Sequence[Dims | None]:
    heads, key_heads = attribute(node, "num_heads", 1), attribute(node, "kv_num_heads", 1)
    width: Dim | None = facts.static(operand(node, 0), -1)
    if operand(node, 1) is None and isinstance(width, int) and heads + 2 * key_heads > 0:
        width = width // (heads + 2 * key_heads) * heads
    return _rows(facts, node, width if isinstance(width, int) else None)


def _embedding(facts: Facts, node: ir.Node) -> Sequence[Dims | None]:
    """(B, S, D), the mask index (B), and the sum before normalization."""
    hidden = _rows(facts, node, facts.static(operand(node, 2), -1))[0]
    return [hidden, None if hidden is None else hidden[:1], hidden]


FUSED_SHAPES: dict[str, Callable[[Facts, ir.Node], Sequence[Dims | None]]] = {
    "Attention": _attention,
    "QAttention": _attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _group_query,
    "EmbedLayerNormalization": _embedding,
}
"""Operator type → shapes of its leading outputs."""
