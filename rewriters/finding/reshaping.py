"""Shapes after a Reshape or Flatten: 0, -1 and unknown entries of a shape operand, and merged axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from .facts import Dim, Dims, Facts
from .view import attribute, operand

__all__ = ["merged", "rank_given_by", "reshape_target"]

_MOST_AXES = 64  # numpy's limit; a longer shape comes from a malformed graph


def reshape_target(facts: Facts, node: ir.Node) -> Dims | None:
    """Output shape of a Reshape, with 0 and -1 resolved; unknown entries become fresh names."""
    source = facts.shape(operand(node, 0))
    wanted: Sequence[Dim] | None = attribute(node, "shape")  # an attribute before opset 5
    shape = operand(node, 1)
    if wanted is None and shape is not None:
        wanted = facts.elements.get(shape)
        if wanted is None:
            length = rank_given_by(facts, shape)
            return None if length is None else tuple(facts.fresh() for _ in range(length))
    if wanted is None:
        return None
    target: list[Dim] = []
    for index, dim in enumerate(wanted):
        copies = dim == 0 and not attribute(node, "allowzero", 0)
        target.append(
            (source[index] if source is not None and index < len(source) else facts.fresh()) if copies else dim
        )
    if -1 in target:
        position = target.index(-1)
        target[position] = _remaining(facts, source, target[:position] + target[position + 1 :])
    return tuple(target)


def rank_given_by(facts: Facts, shape: ir.Value | None) -> int | None:
    """Length of a shape operand, which is the rank of the result; None if unknown or larger than any rank."""
    length = facts.static(shape, -1)
    return length if length is not None and 0 <= length <= _MOST_AXES else None


def _remaining(facts: Facts, source: Dims | None, others: Sequence[Dim]) -> Dim:
    """The dimension that -1 means in a Reshape: the number or name that is left after dividing by the others."""
    if source is None or -1 in others:
        return facts.fresh()
    names = Counter(dim for dim in source if isinstance(dim, str))
    names.subtract(dim for dim in others if isinstance(dim, str))
    number, divisor = _number(source), _number(others)
    left = [name for name, count in names.items() for _ in range(count)]
    if any(count < 0 for count in names.values()) or not divisor or number % divisor:
        return facts.fresh()
    number //= divisor
    if not left:
        return number
    return left[0] if len(left) == 1 and number == 1 else facts.fresh()


def _number(dims: Sequence[Dim]) -> int:
    number = 1
    for dim in dims:
        number *= dim if isinstance(dim, int) else 1
    return number


def merged(facts: Facts, dims: Dims) -> Dim:
    """The size of several axes merged into one."""
    named = [dim for dim in dims if isinstance(dim, str)]
    number = _number(dims)
    return number if not named else named[0] if len(named) == 1 and number == 1 else facts.fresh()
