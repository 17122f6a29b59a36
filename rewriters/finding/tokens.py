"""Whose tokens an axis counts: it is followed back through changes of layout to the input of the last projection.

A Relu between two products is nearly always an ordinary layer of a network, and hardly ever an attention map. They
differ in this:

1. The rows and columns of attention scores are tokens. Hidden units are features that a projection makes.
2. Keys and values belong to the same tokens: both come from the same axis of the same value. If keys and values are
   both graph inputs, nothing disproves that, so it is assumed.
3. Values that are only picked from constants (the weights of a chosen expert) have no tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from .axes import Moved, track
from .facts import Dims, Facts
from .products import product_operands
from .view import View, attribute, op_types, operand

__all__ = ["Tokens", "tokens_of"]

_MAX_VISITS = 128
_CONVOLUTIONS = op_types("Conv ConvInteger QLinearConv")
_ELEMENT_WISE = op_types("Add Div Max Min Mul Sub Where")
_SAME_SHAPE = op_types(
    "Cast CastLike Clip DequantizeLinear Dropout DynamicQuantizeLinear Elu Gelu Identity InstanceNormalization"
    " LayerNormalization LeakyRelu LpNormalization Neg QuantizeLinear RMSNormalization Relu RotaryEmbedding Sigmoid"
    " SimplifiedLayerNormalization Slice Tanh"
)
_CHANNELS = 1


@dataclass
class Tokens:
    """Where an axis comes from.

    Attributes:
        origins: (value, negative axis) pairs.
        features: on some path it counts features that a projection made.
        unknown: on some path it could not be followed.
    """

    origins: set[tuple[ir.Value, int]]
    features: bool = False
    unknown: bool = False

    def from_outside(self) -> bool:
        """Whether all origins are inputs of the graph (or of its body)."""
        return bool(self.origins) and all(value.producer() is None for value, _ in self.origins)

    def may_be_those_of(self, other: Tokens) -> bool:
        """Rule 2."""
        apart = {value for value, _ in self.origins}.isdisjoint(value for value, _ in other.origins)
        outside = apart and self.from_outside() and other.from_outside() and not (self.unknown or other.unknown)
        return outside or bool(self.origins & other.origins)


def tokens_of(view: View, facts: Facts, value: ir.Value, axis: int) -> Tokens:
    """The tokens along a negative axis of a value."""
    found = Tokens(set())
    waiting, seen = [(value, axis)], {(value, axis)}
    while waiting and len(seen) < _MAX_VISITS:
        at, along = waiting.pop()
        if view.is_constant(at) or facts.static(at, along) == 1:
            continue
        same = view.backward.get(at)
        node = at.producer()
        steps = (
            [(source, along) for source in same]
            if same
            else None
            if node is None
            else _behind(view, facts, found, node, at, along)
        )
        if steps is None:
            found.origins.add((at, along))
        for step in steps or ():
            if step not in seen:
                seen.add(step)
                waiting.append(step)
    return found


def _behind(
    view: View, facts: Facts, found: Tokens, node: ir.Node, value: ir.Value, axis: int
) -> list[tuple[ir.Value, int]] | None:
    """The same axis one operator back; [] where it ends in features or is lost, None where the value is the origin."""
    kind, source = node.op_type, operand(node, 0)
    if kind in _CONVOLUTIONS:
        rank = facts.rank(value)
        return None if rank is None else _projected(facts, found, source, axis, is_feature=axis + rank == _CHANNELS)
    factors = product_operands(node)
    if factors is not None:
        constant = view.is_constant(factors.first), view.is_constant(factors.second)
        if constant[0] == constant[1] or kind == "Einsum":
            return None
        side = int(constant[0])
        return _projected(
            facts, found, factors.second if side else factors.first, axis, is_feature=axis == (-2 if side else -1)
        )
    if kind in _ELEMENT_WISE:
        parts = [part for part in node.inputs if part is not None and -axis <= (facts.rank(part) or -axis)]
        return [(part, axis) for part in parts]
    if source is None:
        return None
    if kind in _SAME_SHAPE:
        return [(source, axis)]
    if kind == "Reshape":
        behind = _behind_reshape(facts.shape(source), facts.shape(value), axis)
    elif kind in ("Concat", "Split", "Gather", "Squeeze", "Unsqueeze", "Transpose", "Expand"):
        if kind == "Concat" and _along(facts, node) == axis:
            return [(part, axis) for part in node.inputs if part is not None]
        behind = _inverse(facts, node, axis)
    else:
        return None
    if behind is None:
        found.unknown = True
        return []
    return [(part, behind) for part in (node.inputs if kind == "Concat" else [source]) if part is not None]


def _projected(
    facts: Facts, found: Tokens, data: ir.Value | None, axis: int, is_feature: bool
) -> list[tuple[ir.Value, int]]:
    """Record a projection's data as the origin, so that queries, keys and values of one sequence have the same one."""
    if is_feature:
        found.features = True
    elif data is not None:
        found.origins.add(_before_repeated(facts, data, axis))
    return []


def _before_repeated(facts: Facts, value: ir.Value, axis: int) -> tuple[ir.Value, int]:
    """The value and axis before the operators that exporters repeat for each reader."""
    while (node := value.producer()) is not None and (source := operand(node, 0)) is not None:
        behind: int | None = axis
        if node.op_type in ("Reshape", "Flatten"):
            behind = _behind_reshape(facts.shape(source), facts.shape(value), axis)
        elif node.op_type == "Transpose":
            behind = _inverse(facts, node, axis)
        elif node.op_type not in ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
            break
        if behind is None:
            break
        value, axis = source, behind
    return value, axis


def _along(facts: Facts, node: ir.Node) -> int | None:
    along, rank = int(attribute(node, "axis", 0)), facts.rank(node.outputs[0])
    return along if along < 0 else None if rank is None else along - rank


def _inverse(facts: Facts, node: ir.Node, axis: int) -> int | None:
    """The axis of the first input that becomes `axis`, found by trying all."""
    rank = facts.rank(operand(node, 0))
    for start in range(-1, -(rank or 0) - 1, -1):
        moved = Moved(start) if node.op_type == "Expand" else track(facts, node, 0, start)
        if isinstance(moved, Moved) and moved.axis == axis:
            return start
    if node.op_type == "Split" and rank is not None and _along(facts, node) == axis:
        return axis  # a part of it
    return None


def _behind_reshape(source: Dims | None, target: Dims | None, axis: int) -> int | None:
    """The axis before a Reshape that has the same dimensions after it: the axis, its outer part, or the last merged."""
    if source is None or target is None or -axis > len(target):
        return None
    behind = _volume(target[axis:][1:])
    for start in range(-1, -len(source) - 1, -1):
        if source[start] != 1 and _volume(source[start:][1:]) == behind:
            return start
    names, number = behind
    for start in range(-1, -len(source) - 1, -1):  # the outer part of a split axis
        inner, size = _volume(source[start:][1:]), source[start]
        if inner[0] == names and isinstance(size, int) and inner[1] < number < inner[1] * size:
            return start
    return None


def _volume(dims: Dims) -> tuple[tuple[str, ...], int]:
    names = tuple(sorted(dim for dim in dims if isinstance(dim, str)))
    return names, math.prod(dim for dim in dims if isinstance(dim, int))
