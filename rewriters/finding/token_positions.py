"""Whether what is computed from tokens depends on their positions, between a value and the projections behind it."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from .facts import Facts
from .self_attention import is_projection
from .token_index import Index
from .token_rows import TokenRows
from .view import View, op_types

__all__ = ["position_before"]

_RESHAPING = op_types("Reshape Expand Slice Split Squeeze Unsqueeze Transpose Tile Pad")
"""Their further operands say how, not what."""
_TOKENS = 1
_MOST_STEPS = 2048


def position_before(
    view: View, facts: Facts, rows: TokenRows, content: Collection[ir.Value], value: ir.Value
) -> str | None:
    """An operand or operator that may depend on positions; None where there is none.

    Args:
        content: all that is computed from the tokens.
        value: its second axis is the tokens.
    """
    start = rows.index(value)
    if start is None:
        return None if facts.static(value, _TOKENS - (facts.rank(value) or 0)) == 1 else "its tokens"
    waiting, seen = [start], {start}
    while waiting:
        index = waiting.pop()
        node = index.value.producer()
        if index.value in view.backward:
            return "a value of a branch"
        if node is None or is_projection(view, node):
            continue
        behind = rows.behind(index)
        if node.op_type == "RotaryEmbedding" or node.op_type.endswith("Attention") or not behind:
            return f"{node.op_type} {node.name or ''}".strip()
        followed = {one.value for one in behind if one.value in content}
        for place, source in enumerate(node.inputs):
            says_how = place > 0 and node.op_type in _RESHAPING
            if source is not None and source not in followed and not says_how and _varies(facts, index, source):
                return str(source.name)
        fresh = [one for one in behind if one not in seen]
        seen.update(fresh)
        waiting += fresh
        if len(seen) > _MOST_STEPS:
            return "too much"
    return None


def _varies(facts: Facts, index: Index, source: ir.Value) -> bool:
    """Whether an operand may differ along the index of the output; it broadcasts to the output."""
    whole, own = facts.rank(index.value), facts.shape(source)
    if own is None or whole is None:
        return True
    axes = [axis - (whole - len(own)) for axis in index.axes]
    return any(axis >= len(own) or (axis >= 0 and own[axis] != 1) for axis in axes)
