"""Division by a row sum, as exporters write it: Div, or Mul by a Reciprocal; the sum may be guarded against zero."""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir

from .facts import Facts
from .refusals import Refused
from .shape_rules import axes_of
from .view import attribute, operand

__all__ = ["divided_by", "fraction", "producer", "row_sum", "summed_axis", "through"]

_MAX_STEPS = 16
_GUARDS = ("Add", "Max", "Clip", "Cast", "Identity", "Unsqueeze")


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a value; None for inputs and constants."""
    return None if value is None else value.producer()


def through(value: ir.Value | None, op_types: Container[str]) -> ir.Node | None:
    """The node that computes a value; operators of the given types are skipped along their first input."""
    node = producer(value)
    for _ in range(_MAX_STEPS):
        if node is None or node.op_type not in op_types:
            break
        node = producer(operand(node, 0))
    return node


def fraction(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The node that makes the numerator of a Div (or of a Mul by a Reciprocal), and the denominator."""
    first, second = operand(node, 0), operand(node, 1)
    if node.op_type == "Div":
        return producer(first), second
    for numerator, inverse in ((first, second), (second, first)):
        reciprocal = producer(inverse)
        if reciprocal is not None and _is_reciprocal(inverse):
            return producer(numerator), operand(reciprocal, 0)
    return None, None


def divided_by(node: ir.Node, numerator: ir.Value) -> ir.Value | None:
    """The divisor at a node whose first operand is `numerator`; None where the node does not divide."""
    if node.op_type not in ("Div", "Mul") or operand(node, 0) is not numerator:
        return None
    return fraction(node)[1] if node.op_type == "Div" or _is_reciprocal(operand(node, 1)) else None


def _is_reciprocal(value: ir.Value | None) -> bool:
    node = producer(value)
    return node is not None and node.op_type == "Reciprocal"


def row_sum(divisor: ir.Value | None) -> ir.Node | None:
    """The ReduceSum that computes a divisor; guards against zero are skipped."""
    node = through(divisor, _GUARDS)
    return node if node is not None and node.op_type == "ReduceSum" else None


def summed_axis(facts: Facts, total: ir.Node, divisor: ir.Value | None, result: ir.Value) -> int | Refused:
    """The negative axis that a reduction sums over; the result must keep that axis, or get it back by an Unsqueeze."""
    axes = axes_of(facts, total)
    if axes is None or len(axes) != 1:
        return Refused("flatten", "a sum that is not over exactly one axis")
    rank = facts.rank(operand(total, 0)) or facts.rank(result)
    if rank is None and axes[0] >= 0:
        return Refused("rank", f"sum over axis {axes[0]}")
    axis = axes[0] if axes[0] < 0 else axes[0] - (rank or 0)
    if attribute(total, "keepdims", 1) or _given_back(facts, divisor, axis, rank):
        return axis
    return Refused("axis", "a sum without its axis, so the map would be broadcast against it")


def _given_back(facts: Facts, divisor: ir.Value | None, axis: int, rank: int | None) -> bool:
    """Whether an Unsqueeze between sum and divisor puts the summed axis back in its place."""
    node = producer(divisor)
    while node is not None and node.op_type in _GUARDS:
        axes = axes_of(facts, node) if node.op_type == "Unsqueeze" else None
        if axes is not None:
            return len(axes) == 1 and (axes[0] if axes[0] < 0 or rank is None else axes[0] - rank) == axis
        node = producer(operand(node, 0))
    return False
