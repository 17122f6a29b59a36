"""Everything in a graph that normalises like a Softmax."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .facts import Facts
from .products import Refused
from .shape_rules import axes_of
from .view import View, attribute, is_standard, operand

__all__ = ["Anchor", "read_anchor"]

_FIRST_PLAIN_AXIS_OPSET = 13  # before it a Softmax flattens its input to two dimensions at `axis`

_DENOMINATOR_GUARDS = ("Add", "Max", "Clip", "Cast")


@dataclass(frozen=True)
class Anchor:
    """One normalisation.

    Attributes:
        node: the Softmax, or the Div (or Mul by a reciprocal) of a decomposed one.
        scores, output: what goes in and what comes out.
        axis: normalised axis, negative.
        form: "softmax", "softmax-flat", "decomposed", "bias-softmax" or "qlinear-softmax".
        inner: operator types between `scores` and `output`, for the chain.
        assumed: the axis had to be assumed, because the rank is not known.
    """

    node: ir.Node
    scores: ir.Value
    output: ir.Value
    axis: int
    form: str
    inner: tuple[str, ...]
    assumed: bool = False


def read_anchor(view: View, facts: Facts, node: ir.Node) -> Anchor | Refused | None:
    """The anchor at a node; a refusal where its axis cannot be used; None for every other operator."""
    if view.function(node) is not None or not node.outputs:
        return None
    if not is_standard(node):
        return _contrib(facts, node) if node.domain == "com.microsoft" else None
    if node.op_type == "Softmax":
        flat = view.homes[node].opset < _FIRST_PLAIN_AXIS_OPSET
        return _softmax(facts, node, "softmax-flat" if flat else "softmax", flat, 1 if flat else -1)
    return _decomposed(facts, node) if node.op_type in ("Div", "Mul") else None


def _contrib(facts: Facts, node: ir.Node) -> Anchor | Refused | None:
    """onnxruntime's own: BiasSoftmax normalises `axis` and all behind it, QLinearSoftmax as its attribute `opset` says."""
    if node.op_type == "BiasSoftmax":
        return _softmax(facts, node, "bias-softmax", True, 1)
    if node.op_type == "QLinearSoftmax":
        return _softmax(facts, node, "qlinear-softmax", int(attribute(node, "opset", 13)) < _FIRST_PLAIN_AXIS_OPSET, -1)
    return None


def _softmax(facts: Facts, node: ir.Node, form: str, flat: bool, default_axis: int) -> Anchor | Refused:
    scores, output = operand(node, 0), node.outputs[0]
    if scores is None:
        return Refused("no-scores", "the Softmax has no input")
    axis = int(attribute(node, "axis", default_axis))
    rank = facts.rank(scores) or facts.rank(output)
    assumed = rank is None and axis >= 0
    if rank is None:
        if axis in (0, 1):
            return Refused("rank", f"Softmax over axis {axis}")
        rank = axis + 1 if axis >= 0 else -axis  # exporters write the last axis as a number; nothing contradicts it
    negative = axis - rank if axis >= 0 else axis
    if not -rank <= negative <= -1:
        return Refused("axis", f"Softmax over axis {axis} of a rank-{rank} value")
    if flat and any(facts.static(scores, other) != 1 for other in range(negative, -1)):
        return Refused("flatten", f"axis {axis} of rank {rank}")
    return Anchor(node, scores, output, -1 if flat else negative, form, (node.op_type,), assumed)


def _decomposed(facts: Facts, node: ir.Node) -> Anchor | Refused | None:
    """Exp(x) over ReduceSum(Exp(x)), with or without the maximum taken off x and a guard on the sum."""
    exponential, total = _fraction(node)
    while total is not None and total.op_type in _DENOMINATOR_GUARDS:
        total = _producer(total, 0)
    if exponential is None or total is None or exponential.op_type != "Exp" or total.op_type != "ReduceSum":
        return None
    if operand(total, 0) is not exponential.outputs[0]:
        return None
    scores, axes = operand(exponential, 0), axes_of(facts, total)
    if scores is None or axes is None or len(axes) != 1 or not attribute(total, "keepdims", 1):
        return Refused("flatten", "a sum over other than one kept axis")
    axis, rank = axes[0], facts.rank(node.outputs[0])
    if axis >= 0 and rank is None:
        return Refused("rank", f"sum over axis {axis}")
    inner = ["Exp", node.op_type]
    shifted = scores.producer()
    maximum = None if shifted is None or shifted.op_type != "Sub" else _producer(shifted, 1)
    if shifted is not None and maximum is not None and maximum.op_type == "ReduceMax" and operand(maximum, 0) is operand(shifted, 0):
        inner.insert(0, "Sub")
        scores = operand(shifted, 0) or scores
    return Anchor(node, scores, node.outputs[0], axis if axis < 0 else axis - (rank or 0), "decomposed", tuple(inner))


def _fraction(node: ir.Node) -> tuple[ir.Node | None, ir.Node | None]:
    """What makes numerator and denominator of a Div, or of a Mul by a Reciprocal."""
    first, second = _producer(node, 0), _producer(node, 1)
    if node.op_type == "Div":
        return first, second
    if first is not None and first.op_type == "Reciprocal":
        first, second = second, first
    return (first, _producer(second, 0)) if second is not None and second.op_type == "Reciprocal" else (None, None)


def _producer(node: ir.Node, index: int) -> ir.Node | None:
    value = operand(node, index)
    return None if value is None else value.producer()
