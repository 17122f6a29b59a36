"""Tracking one axis of a tensor forward through one operator.

Axes are negative, since broadcasting adds dimensions on the left. The answer is the axis in the output, and whether it
is proven. `Lost` means that the operator does not pass the map on, or not this axis of it.

1. Element-wise operators keep the axis if the other operands broadcast to the map, and not the map to them.
2. Transpose, Squeeze, Unsqueeze and Flatten move it by their attributes.
3. Reshape keeps it where a dimension of equal size has the same product of dimensions after it (or before it). If
   sizes are unknown, a last axis is assumed to stay the last one.
4. Gather, Split and Concat along another axis split or stack maps and leave this axis unchanged. Pad may add columns
   to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .facts import Dim, Dims, Facts
from .reshaping import reshape_target
from .shape_rules import axes_of, perm_of
from .view import attribute, op_types, operand

__all__ = ["Lost", "Moved", "track"]

_UNARY = op_types(
    "Abs Cast CastLike Clip DequantizeLinear Dropout DynamicQuantizeLinear Expand Identity Neg Pad QuantizeLinear Relu"
    " Slice Sqrt Trilu"
)
_ELEMENTWISE = {
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "Div": (0,),
    "Pow": (0,),
    "Where": (1, 2),
    "Max": (0, 1),
    "Min": (0, 1),
}


@dataclass(frozen=True)
class Moved:
    """The axis in the output; `assumed`: not proven."""

    axis: int
    assumed: bool = False


@dataclass(frozen=True)
class Lost:
    """The map ends here.

    Attributes:
        kind: "operator" (one that does not pass a map on), "shape" (broadcast to another shape), "axis" (merged, split
            or cut).
    """

    kind: str


def track(facts: Facts, node: ir.Node, index: int, axis: int) -> Moved | Lost:
    """Which axis of the first output `axis` of input `index` becomes."""
    kind = node.op_type
    if kind in _UNARY:
        return Moved(axis) if index == 0 else Lost("operator")
    if kind in _ELEMENTWISE:
        if index not in _ELEMENTWISE[kind]:
            return Lost("operator")
        others = [value for position, value in enumerate(node.inputs) if position != index and value is not None]
        return _keeps_shape(facts, operand(node, index), others, axis)
    if kind == "Transpose":
        return _through_transpose(facts, node, axis)
    if kind in ("Squeeze", "Unsqueeze"):
        return _through_squeeze(facts, node, axis) if index == 0 else Lost("operator")
    if kind in ("Gather", "Split", "Concat"):
        return _through_parts(facts, node, axis) if kind != "Gather" or index == 0 else Lost("operator")
    if kind == "Flatten":
        return _through_reshape(facts, facts.shape(operand(node, 0)), facts.shape(node.outputs[0]), axis)
    if kind == "Reshape":
        target = facts.shape(node.outputs[0]) or reshape_target(facts, node)
        return _through_reshape(facts, facts.shape(operand(node, 0)), target, axis) if index == 0 else Lost("operator")
    return Lost("operator")


def _keeps_shape(facts: Facts, value: ir.Value | None, others: Sequence[ir.Value], axis: int) -> Moved | Lost:
    shape = facts.shape(value)
    assumed = False
    for other in others:
        dims = facts.shape(other)
        if shape is None or dims is None:
            assumed = True
        elif len(dims) > len(shape) or any(not _fits(shape[a], dims[a]) for a in range(-len(dims), 0)):
            return Lost("shape")
    return Moved(axis, assumed)


def _fits(dim: Dim, other: Dim) -> bool:
    """Whether `other` broadcasts to `dim`; two different names may stand for the same size."""
    return other == 1 or other == dim or (dim != 1 and (isinstance(dim, str) or isinstance(other, str)))


def _through_transpose(facts: Facts, node: ir.Node, axis: int) -> Moved | Lost:
    perm = perm_of(facts, node)
    if perm is None or axis + len(perm) not in perm or axis + len(perm) < 0:
        return Lost("axis")
    return Moved(perm.index(axis + len(perm)) - len(perm))


def _through_squeeze(facts: Facts, node: ir.Node, axis: int) -> Moved | Lost:
    rank, axes = facts.rank(operand(node, 0)), axes_of(facts, node)
    if not axes:
        return Lost("axis")
    grows = node.op_type == "Unsqueeze"
    if rank is None:
        if any(a >= 0 for a in axes):
            return Lost("axis")
        rank = max(-a for a in axes) + 8  # all axes count from the end, so any large rank gives the same answer
    if -axis > rank:
        return Lost("axis")
    wide = rank + len(axes) if grows else rank
    special = {a % wide for a in axes}
    kept = [a for a in range(wide) if a not in special]
    if grows:
        return Moved(kept[axis + rank] - wide)
    position = axis + rank
    return Moved(kept.index(position) - len(kept)) if position in kept else Lost("axis")


def _through_parts(facts: Facts, node: ir.Node, axis: int) -> Moved | Lost:
    """Through a Gather, Split or Concat along another axis; a Gather may remove that axis, or replace it by several."""
    rank = facts.rank(operand(node, 0))
    along = int(attribute(node, "axis", 0))
    if rank is None:
        return Lost("axis")
    along = along - rank if along >= 0 else along
    if not -rank <= along < 0 or along == axis:
        return Lost("axis")
    added = 0
    if node.op_type == "Gather":
        indices = facts.rank(operand(node, 1))
        if indices is None:
            return Lost("axis")
        added = indices - 1
    return Moved(axis if axis > along else axis - added)


def _through_reshape(facts: Facts, source: Dims | None, target: Dims | None, axis: int) -> Moved | Lost:
    if source is None or target is None:
        return Moved(axis, assumed=True) if axis == -1 else Lost("axis")
    if -axis > len(source):
        return Lost("axis")
    after, before = _product(source[axis:][1:]), _product(source[:axis])
    size = source[axis]
    for position in range(-1, -len(target) - 1, -1):
        if target[position] == size and (
            _product(target[position:][1:]) == after or _product(target[:position]) == before
        ):
            return Moved(position)
    last = target[-1] if target else 1
    if axis != -1 or (isinstance(last, int) and isinstance(size, int)):
        return Lost("axis")
    return Moved(-1, assumed=True)


def _product(dims: Dims) -> tuple[int, tuple[tuple[str, int], ...]]:
    """A product of dimensions in a comparable form: its number, and its names with their counts."""
    names = Counter(dim for dim in dims if isinstance(dim, str))
    return math.prod(dim for dim in dims if isinstance(dim, int)), tuple(sorted(names.items()))
