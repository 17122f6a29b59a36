"""The elements of small integer tensors, which graphs compute shapes with; unknown numbers are named dimensions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import onnx_ir as ir

from .facts import Dim, Dims, Facts
from .view import attribute, operand

__all__ = ["elements"]

_MOST = 1024
"""Longest tensor that is followed: shapes are short, but a chain of Concat can double its length at every step."""

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": lambda a, b: (abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)) if b else 0,
}


def elements(facts: Facts, node: ir.Node) -> Dims | None:
    """Elements of an integer output of rank 0 or 1."""
    kind = node.op_type
    first = operand(node, 0)
    if kind == "Shape":
        shape = facts.shape(first)
        return None if shape is None else shape[attribute(node, "start", 0) : attribute(node, "end", None)]
    if kind in ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape"):
        small = kind in ("Cast", "Identity") or (facts.rank(node.outputs[0]) or 0) <= 1
        return facts.elements.get(first) if small and first is not None else None
    if kind in _ARITHMETIC:
        return _arithmetic(facts, node, _ARITHMETIC[kind])
    if kind in ("Concat", "Gather", "Slice"):
        parts = [None if value is None else facts.elements.get(value) for value in node.inputs]
        if kind == "Concat":
            known = [part for part in parts if part is not None]
            short = len(known) == len(parts) and sum(map(len, known)) <= _MOST
            return tuple(dim for part in known for dim in part) if short else None
        if parts and parts[0] is not None:
            return (
                _gather_elements(facts, node, parts[0]) if kind == "Gather" else _slice_elements(facts, node, parts[0])
            )
    return None


def _arithmetic(facts: Facts, node: ir.Node, compute: Callable[[int, int], int]) -> Dims | None:
    first, second = operand(node, 0), operand(node, 1)
    a = None if first is None else facts.elements.get(first)
    b = None if second is None else facts.elements.get(second)
    if a is None or b is None or not a or not b or (len(a) != len(b) and 1 not in (len(a), len(b))):
        return None
    length = max(len(a), len(b))
    a, b = a * (length // len(a)), b * (length // len(b))
    return tuple(_combined(facts, node.op_type, compute, x, y) for x, y in zip(a, b, strict=True))


def _combined(facts: Facts, kind: str, compute: Callable[[int, int], int], a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        number = compute(a, b)
        return number if abs(number) < 2**63 else facts.fresh()
    if kind == "Sub" and a == b:
        return 0
    neutral = 0 if kind in ("Add", "Sub") else 1
    if b == neutral:
        return a
    return b if a == neutral and kind in ("Add", "Mul") else facts.fresh()


def _gather_elements(facts: Facts, node: ir.Node, data: Dims) -> Dims | None:
    indices = facts.ints(operand(node, 1))
    if indices is None or not all(-len(data) <= index < len(data) for index in indices):
        return None
    return tuple(data[index] for index in indices)


def _slice_elements(facts: Facts, node: ir.Node, data: Dims) -> Dims | None:
    """A Slice of a 1-D tensor, with attributes (old opsets) or inputs."""
    starts: Sequence[int] | None = attribute(node, "starts") or facts.ints(operand(node, 1))
    ends: Sequence[int] | None = attribute(node, "ends") or facts.ints(operand(node, 2))
    steps: Sequence[int] | None = (1,) if operand(node, 4) is None else facts.ints(operand(node, 4))
    if not starts or not ends or not steps or not len(starts) == len(ends) == len(steps) == 1 or not steps[0]:
        return None
    return data[starts[0] : ends[0] : steps[0]]
