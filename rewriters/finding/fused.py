"""Fused attention operators that can be lowered (see `rewriters.lowering`), and what a site needs to know about each.

A reader takes a node and returns a `FusedRead`, or a `Refused` with the obstacle. `READERS` has one entry for each
form. Every other operator whose name ends in Attention is refused as "fused".
"""

from __future__ import annotations

import onnx_ir as ir

from ..sites import Layout
from .facts import Facts
from .fused_microsoft import MICROSOFT_READERS
from .fused_read import CANONICAL, FusedRead, Reader
from .heads import kind_of
from .products import Refused
from .self_attention import same_tokens
from .token_index import index_of
from .view import View, attribute, is_standard, operand

__all__ = ["FusedRead", "read_fused"]

_FUSED_DOMAINS = ("", "ai.onnx", "ai.onnx.preview", "com.microsoft", "com.ms.internal.nhwc")
_WITHOUT_MAP = ("LinearAttention",)
_INLINABLE = {"FlexAttention": "FlexAttention; with its function body inlined (onnx.inliner) it can be patched"}
# Some operators whose names end in "Attention" hold no Softmax over key columns. They are reported too, so that the
# reader knows that nobody looked inside them.
_FUSED_SUFFIXES = ("Attention", "Attention_TRT")

_HEADS_AFTER_TOKENS = Layout(4, values=(0, 2, 1, 3), output=(0, 2, 1, 3))
"""Layout of (B, S, H·D) after its heads are split off: (B, S, H, D)."""


def read_fused(view: View, facts: Facts, node: ir.Node) -> FusedRead | Refused | None:
    """What a fused operator offers or why it is refused; None for operators that are not fused attention."""
    if node.domain not in _FUSED_DOMAINS or view.function(node) is not None:
        return None
    if not node.op_type.endswith(_FUSED_SUFFIXES):
        return None
    if node.op_type in _WITHOUT_MAP:
        return Refused("no-map", node.op_type)
    reader = READERS.get(("" if is_standard(node) else node.domain, node.op_type))
    if reader and not _has_head_counts(node):
        return Refused("fused", f"{node.op_type} without a valid number of heads; the model is malformed")
    return reader(view, facts, node) if reader else Refused("fused", _INLINABLE.get(node.op_type, node.op_type))


def _has_head_counts(node: ir.Node) -> bool:
    """Whether all head counts are positive, and those that the operator requires are present.

    A reference to a function's attribute counts as absent.
    """
    asked = (
        ()
        if is_standard(node)
        else ("num_heads", "kv_num_heads")
        if node.op_type == "GroupQueryAttention"
        else ("num_heads",)
    )
    given = [attribute(node, name) for name in ("num_heads", "kv_num_heads", "q_num_heads")]
    return all(number is None or number > 0 for number in given) and all(
        attribute(node, name) is not None for name in asked
    )


def _onnx_attention(view: View, facts: Facts, node: ir.Node) -> FusedRead | Refused:
    """All variants can be lowered; only the layout matters: in rank 3 heads are part of the features, in 4 an axis."""
    query, key, values = (operand(node, index) for index in range(3))
    if query is None or key is None or values is None:
        return Refused("fused", "Attention without Q, K or V")
    heads, rank = attribute(node, "q_num_heads", None), facts.rank(query)
    if rank not in (None, 3, 4) or (rank == 3 and "q_num_heads" not in node.attributes):
        return Refused("fused", f"Attention of rank {rank}" + (" without q_num_heads" if rank == 3 else ""))
    if rank != 4 and any(
        name in node.attributes and attribute(node, name) is None for name in ("q_num_heads", "kv_num_heads")
    ):
        return Refused("fused", "Attention with head counts that are attributes of the function around it")
    if rank == 4 and kind_of(view, facts, values, -3, -2) == "tokens":
        return Refused("token-axis", "Attention; export without fused operators, then each is judged separately")
    heads_in_features = heads is not None and rank != 4
    head_dim = facts.static(values, -1)
    if heads_in_features:
        head_dim = head_dim // attribute(node, "kv_num_heads", heads) if head_dim else None
    cached = operand(node, 4) is not None
    tokens = [index_of(facts, value, -2) for value in (query, key)]
    return FusedRead(
        form="Attention",
        values=values,
        heads=heads if heads_in_features else facts.static(query, -3),
        head_dim=head_dim,
        self_attention=not cached and same_tokens(view, facts, *tokens),
        layout=_HEADS_AFTER_TOKENS if heads_in_features else CANONICAL,
        attn_mask=operand(node, 3),
        columns=None if cached else facts.static(key, -2),
    )


READERS: dict[tuple[str, str], Reader] = {
    ("", "Attention"): _onnx_attention,
    **MICROSOFT_READERS,
}
