"""Fused attention operators that can be opened (see `rewriters.lowering`): what a site needs to know of each.

A reader takes a node and gives a `FusedRead`, or a `Refused` with what stands in the way. One entry a form in `READERS`; every other
operator whose name ends in Attention is refused as "fused".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from .facts import Facts
from .origins import same_tokens
from .products import Refused
from .view import View, attribute, operand

__all__ = ["FusedRead", "read_fused"]

_FUSED_DOMAINS = ("", "ai.onnx", "com.microsoft", "com.ms.internal.nhwc")
_FUSED_SOFTMAX = ("BiasSoftmax", "QLinearSoftmax", "QOrderedLongformerAttention")
# Operators that end in "Attention" but hold no Softmax over key columns are named alike on purpose: whoever reads the report wants to
# know that nothing inside them was looked at.
_FUSED_SUFFIX = "Attention"


@dataclass(frozen=True)
class FusedRead:
    """One openable operator.

    Attributes:
        form: key in `lowering.FUSED`.
        values: the operand that carries V (packed with others in some forms).
        heads, head_dim: H and D where they are known.
        self_attention: queries and keys are the same tokens.
        mask: operand (B, K) that is non-zero at valid columns, if the operator has one of this form.
    """

    form: str
    values: ir.Value
    heads: int | None
    head_dim: int | None
    self_attention: bool
    mask: ir.Value | None = None


Reader = Callable[[View, Facts, ir.Node], FusedRead | Refused]


def read_fused(view: View, facts: Facts, node: ir.Node) -> FusedRead | Refused | None:
    """What a fused operator offers; None for operators that are not fused attention."""
    if node.domain not in _FUSED_DOMAINS or view.function(node) is not None:
        return None
    if node.op_type in _FUSED_SOFTMAX:
        return Refused("fused-softmax", node.op_type)
    if not node.op_type.endswith(_FUSED_SUFFIX):
        return None
    reader = READERS.get((node.domain, node.op_type))
    return reader(view, facts, node) if reader else Refused("fused", node.op_type)


def _onnx_attention(view: View, facts: Facts, node: ir.Node) -> FusedRead | Refused:
    query, key, values = (operand(node, index) for index in range(3))
    if query is None or key is None or values is None:
        return Refused("fused", "Attention without Q, K or V")
    taken = len(node.outputs) > 3 and node.outputs[3].name and any(True for _ in node.outputs[3].uses())
    if (taken or (len(node.outputs) > 3 and node.outputs[3].is_graph_output())) and attribute(node, "qk_matmul_output_mode", 0) != 3:
        return Refused("fused", "Attention whose scores are read already, so it cannot give its map")
    heads = attribute(node, "q_num_heads", None)
    if heads is None:
        heads = facts.static(query, -3) if facts.rank(query) == 4 else None
        head_dim = facts.static(values, -1)
    else:
        width, key_heads = facts.static(values, -1), attribute(node, "kv_num_heads", heads)
        head_dim = width // key_heads if width else None
    cached = operand(node, 4) is not None
    equal = facts.dim(query, -2) == facts.dim(key, -2) or None
    return FusedRead("Attention", values, heads, head_dim, not cached and same_tokens(view, facts, query, key, equal))


READERS: dict[tuple[str, str], Reader] = {
    ("", "Attention"): _onnx_attention,
}
