"""Whether column k of a map, where the map enters its product, still belongs to key k, and no column was added.

1. Pad and Concat along the columns shift them by the number of columns before them, a Slice by its start. The total
   shift has to be 0.
2. Columns added at the end have to be cut off again.
3. A map stacked from several maps has the columns of several score products; nothing is claimed about it.
"""

from __future__ import annotations

import onnx_ir as ir

from .axes import Moved, track
from .backward import SAME_AXES, Scores
from .facts import Facts
from .forward import Hit
from .softmax_match import Anchor
from .view import View, attribute, operand

__all__ = ["keeps_columns"]

_CHANGES = ("Concat", "Gather", "Pad", "Slice", "Split")


def keeps_columns(view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores) -> bool:
    """True only where this is proven, or where no operator on the way could change the columns."""
    if hit.stacked:
        return False
    if not any(node.op_type in _CHANGES for node in (*scores.path, *hit.path)):
        return True
    starts = range(-1, -(facts.rank(scores.node.outputs[0]) or 2) - 1, -1)
    shifts = [_shift(view, facts, scores.node.outputs[0], scores.path, start) for start in starts]
    before = next((shift for shift in shifts if shift is not None and shift[0] == anchor.axis), None)
    if before is None:
        return False
    behind = _shift(view, facts, anchor.output, hit.path, anchor.axis)
    return behind is not None and before[1] + behind[1] == 0 and before[2] + behind[2] <= 0


def _shift(
    view: View, facts: Facts, value: ir.Value, path: tuple[ir.Node, ...], axis: int
) -> tuple[int, int, int] | None:
    """The axis at the end of a path, by how much its first element moved, and the number of additions minus cuts."""
    shift = added = 0
    for node in path:
        index = view.position(node, value)
        if node.op_type in _CHANGES and _along(facts, node, axis):
            moved = _offset(facts, node, index, axis)
            if moved is None:
                return None
            shift, added = shift + moved, added + (-1 if node.op_type == "Slice" else 1)
        elif node.op_type not in SAME_AXES:
            step = track(facts, node, index, axis)
            if not isinstance(step, Moved):
                return None
            axis = step.axis
        value = next((output for output in node.outputs if output in _next_inputs(path, node)), node.outputs[0])
    return axis, shift, added


def _next_inputs(path: tuple[ir.Node, ...], node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The inputs of the next operator of the path."""
    position = path.index(node) + 1
    return tuple(path[position].inputs) if position < len(path) else ()


def _along(facts: Facts, node: ir.Node, axis: int) -> bool:
    """Whether an operator changes the axis; True where that is unknown."""
    rank = facts.rank(operand(node, 0))
    if node.op_type == "Pad":
        widths = _pads(facts, node)
        if rank is None or widths is None or len(widths) != 2 * rank or -axis > rank:
            return True
        return widths[axis + rank] != 0 or widths[axis + 2 * rank] != 0
    if node.op_type == "Slice":
        axes = attribute(node, "axes") or facts.ints(operand(node, 3))
        return rank is None or axes is None or axis in [at - rank if at >= 0 else at for at in axes]
    along = int(attribute(node, "axis", 0))
    return rank is None or (along - rank if along >= 0 else along) == axis


def _offset(facts: Facts, node: ir.Node, index: int, axis: int) -> int | None:
    """By how much the first element moves."""
    rank = facts.rank(operand(node, 0)) or 0
    if node.op_type == "Pad":
        widths = _pads(facts, node)
        return None if widths is None or len(widths) != 2 * rank or -axis > rank else widths[axis + rank]
    if node.op_type == "Concat":
        sizes = [facts.static(operand(node, before), axis) for before in range(index)]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None
    if node.op_type == "Slice":
        axes = attribute(node, "axes") or facts.ints(operand(node, 3)) or ()
        starts, steps = attribute(node, "starts") or facts.ints(operand(node, 1)), facts.ints(operand(node, 4))
        at = next((place for place, along in enumerate(axes) if (along - rank if along >= 0 else along) == axis), None)
        if at is None or starts is None or len(starts) != len(axes) or starts[at] < 0:
            return None
        if operand(node, 4) is not None and (steps is None or len(steps) != len(axes) or steps[at] != 1):
            return None
        return -int(starts[at])
    return None


def _pads(facts: Facts, node: ir.Node) -> tuple[int, ...] | None:
    return tuple(attribute(node, "pads") or ()) or facts.ints(operand(node, 1))
