"""Finds every operator, or group of operators, that makes attention weights like a Softmax does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import onnx_ir as ir

from .facts import Facts
from .fractions import fraction, producer, row_sum, summed_axis, through
from .mask_arithmetic import Evaluator
from .products import Refused
from .view import View, attribute, is_standard, operand

__all__ = ["Anchor", "read_anchor"]

_FIRST_PLAIN_AXIS_OPSET = 13  # before it a Softmax flattens its input to two dimensions at `axis`

_ELEMENT_WISE = {"Relu": "relu", "Sigmoid": "sigmoid", "HardSigmoid": "sigmoid", "Softplus": "softplus", "Exp": "exp"}
"""Operators that turn each score into a weight by itself → form of the map. Weights are never below zero."""
_CASTS = ("Cast", "Identity")
_GUARDS = ("Cast", "Identity", "Unsqueeze")
_NO_BOUND = 1e30  # an upper bound above this has no effect
_MAX_SORTING = 64  # values between a sort and the threshold that is computed from it


@dataclass(frozen=True)
class Anchor:
    """One normalization.

    Attributes:
        node: the Softmax, or the last operator of a decomposed one: Div (or Mul by a reciprocal), or Exp.
        scores, output: its input and its output.
        axis: normalized axis, negative.
        form: one of `sites.MAP_FORMS`.
        inner: operator types between `scores` and `output`, for the chain.
        assumed: the axis had to be assumed, because the rank is not known.
        tentative: a map only where queries, keys and values are found around it; without them it is not reported.
        element_wise: the operator works on each number by itself, so the product decides which axis holds the keys.
    """

    node: ir.Node
    scores: ir.Value
    output: ir.Value
    axis: int
    form: str
    inner: tuple[str, ...]
    assumed: bool = False
    tentative: bool = False
    element_wise: bool = False


def read_anchor(view: View, facts: Facts, node: ir.Node) -> Anchor | Refused | None:
    """The anchor at a node; a refusal where its axis cannot be used; None for every other operator."""
    if view.function(node) is not None or not node.outputs:
        return None
    if not is_standard(node):
        return _contrib(facts, node) if node.domain == "com.microsoft" else None
    if node.op_type == "Softmax":
        return _softmax(view, facts, node, "softmax-flat" if _flattens(view, node) else "softmax")
    if node.op_type in ("Div", "Mul"):
        return _decomposed(facts, node)
    if node.op_type == "Exp" and (normalized := _normalized_logarithm(view, facts, node)) is not None:
        return normalized
    return _element_wise(view, facts, node)


def _flattens(view: View, node: ir.Node) -> bool:
    return view.homes[node].opset < _FIRST_PLAIN_AXIS_OPSET


def _contrib(facts: Facts, node: ir.Node) -> Anchor | Refused | None:
    """onnxruntime's own: BiasSoftmax normalizes `axis` and all axes after it; QLinearSoftmax depends on its `opset`."""
    if node.op_type == "BiasSoftmax":
        return _over_axis(facts, node, "bias-softmax", True, 1)
    if node.op_type == "QLinearSoftmax":
        return _over_axis(
            facts, node, "qlinear-softmax", int(attribute(node, "opset", 13)) < _FIRST_PLAIN_AXIS_OPSET, -1
        )
    return None


def _softmax(view: View, facts: Facts, node: ir.Node, form: str) -> Anchor | Refused:
    flat = _flattens(view, node)
    return _over_axis(facts, node, form, flat, 1 if flat else -1)


def _over_axis(facts: Facts, node: ir.Node, form: str, flat: bool, default_axis: int) -> Anchor | Refused:
    scores, output = operand(node, 0), node.outputs[0]
    if scores is None:
        return Refused("no-scores", f"the {node.op_type} has no input")
    axis = int(attribute(node, "axis", default_axis))
    rank = facts.rank(scores) or facts.rank(output)
    assumed = rank is None and axis >= 0
    if rank is None:
        if axis in (0, 1):
            return Refused("rank", f"{node.op_type} over axis {axis}")
        rank = axis + 1 if axis >= 0 else -axis  # assume the last axis, which exporters often write as a number
    negative = axis - rank if axis >= 0 else axis
    if not -rank <= negative <= -1:
        return Refused("axis", f"{node.op_type} over axis {axis} of a rank-{rank} value")
    if flat and any(facts.static(scores, other) != 1 for other in range(negative, -1)):
        return Refused("flatten", f"axis {axis} of rank {rank}")
    return Anchor(node, scores, output, -1 if flat else negative, form, (node.op_type,), assumed)


def _decomposed(facts: Facts, node: ir.Node) -> Anchor | Refused | None:
    """Exp(x) / ReduceSum(Exp(x)), with or without subtraction of the maximum from x and a guard on the sum."""
    exponential, divisor = fraction(node)
    total = row_sum(divisor)
    if (
        exponential is None
        or total is None
        or exponential.op_type != "Exp"
        or operand(total, 0) is not exponential.outputs[0]
    ):
        return None
    axis = summed_axis(facts, total, divisor, node.outputs[0])
    if isinstance(axis, Refused):
        return axis
    scores, shift = _unshifted(operand(exponential, 0))
    return (
        None
        if scores is None
        else Anchor(node, scores, node.outputs[0], axis, "decomposed", (*shift, "Exp", node.op_type))
    )


def _normalized_logarithm(view: View, facts: Facts, node: ir.Node) -> Anchor | None:
    """Exp of a LogSoftmax, or Exp(x - log Σ exp(x))."""
    before = through(operand(node, 0), _CASTS)
    if before is None:
        return None
    if before.op_type == "LogSoftmax" and is_standard(before):
        read = _softmax(view, facts, before, "log-softmax")
        if isinstance(read, Refused):
            return None
        inner = (before.op_type, *(["Cast"] if before.outputs[0] is not operand(node, 0) else []), node.op_type)
        return replace(read, node=node, output=node.outputs[0], inner=inner, tentative=True)
    if before.op_type != "Sub" or before.outputs[0] is not operand(node, 0):
        return None
    shifted = operand(before, 0)
    reduced = _logarithm(operand(before, 1), shifted)
    axis = None if reduced is None else summed_axis(facts, reduced, operand(before, 1), node.outputs[0])
    if not isinstance(axis, int):
        return None
    scores, shift = _unshifted(shifted)
    inner = (*shift, before.op_type, node.op_type)
    return None if scores is None else Anchor(node, scores, node.outputs[0], axis, "logsumexp", inner, tentative=True)


def _logarithm(value: ir.Value | None, scores: ir.Value | None) -> ir.Node | None:
    """The reduction inside log Σ exp(scores): one operator, three, or with the maximum subtracted and added again."""
    node = through(value, _GUARDS)
    if node is None or scores is None:
        return None
    if node.op_type == "ReduceLogSumExp":
        return node if operand(node, 0) is scores else None
    if node.op_type == "Log":
        total = row_sum(operand(node, 0))
        exponential = None if total is None else producer(operand(total, 0))
        return (
            total
            if exponential is not None and exponential.op_type == "Exp" and operand(exponential, 0) is scores
            else None
        )
    if node.op_type != "Add":
        return None
    for index in (0, 1):
        maximum, rest = operand(node, index), producer(operand(node, 1 - index))
        total = None if rest is None or rest.op_type != "Log" else row_sum(operand(rest, 0))
        exponential = None if total is None else producer(operand(total, 0))
        shifted = None if exponential is None or exponential.op_type != "Exp" else producer(operand(exponential, 0))
        if (
            shifted is not None
            and shifted.op_type == "Sub"
            and operand(shifted, 0) is scores
            and operand(shifted, 1) is maximum
        ):
            return total
    return None


def _unshifted(value: ir.Value | None) -> tuple[ir.Value | None, tuple[str, ...]]:
    """The value before its row maximum was subtracted, and the type of the operator that subtracted it."""
    node = producer(value)
    maximum = None if node is None or node.op_type != "Sub" else producer(operand(node, 1))
    if (
        node is not None
        and maximum is not None
        and maximum.op_type == "ReduceMax"
        and operand(maximum, 0) is operand(node, 0)
    ):
        return operand(node, 0), ("Sub",)
    return value, ()


def _element_wise(view: View, facts: Facts, node: ir.Node) -> Anchor | None:
    """Operators that turn each score into a weight by itself: Relu, Sigmoid, Exp and similar ones.

    Nearly all of them are ordinary layers of a network.
    """
    scores, form = operand(node, 0), _ELEMENT_WISE.get(node.op_type)
    if node.op_type in ("Clip", "Max"):
        scores, form = _rectified(view, node)
    if scores is None or form is None or view.is_constant(scores):
        return None
    if form == "exp" and any(isinstance(_decomposed(facts, use.node), Anchor) for use in node.outputs[0].uses()):
        return None  # the anchor is the division
    if form == "relu" and _takes_threshold(scores):
        form = "sparsemax"
    return Anchor(node, scores, node.outputs[0], -1, form, (node.op_type,), tentative=True, element_wise=True)


def _rectified(view: View, node: ir.Node) -> tuple[ir.Value | None, str | None]:
    """The operand of a Clip or Max that replaces numbers below zero by zero and does nothing else."""
    first, second = operand(node, 0), operand(node, 1)
    if node.op_type == "Clip":
        low = attribute(node, "min") if second is None else _number(view, node, second)
        high = attribute(node, "max", math.inf) if operand(node, 2) is None else _number(view, node, operand(node, 2))
        return (first, "relu") if low == 0 and high is not None and high > _NO_BOUND else (None, None)
    if len(node.inputs) != 2:
        return None, None
    zero = next((index for index in (0, 1) if _number(view, node, operand(node, index)) == 0), None)
    return (None, None) if zero is None else (operand(node, 1 - zero), "relu")


def _number(view: View, node: ir.Node, value: ir.Value | None) -> float | None:
    """The number in a constant, or in a tensor that is filled with a single number."""
    return Evaluator(view, node.outputs[0], 0.0, 0.0).value(value)


def _takes_threshold(scores: ir.Value) -> bool:
    """Whether a threshold that was found by sorting is subtracted from the scores, as in sparsemax and entmax."""
    node = producer(scores)
    if node is None or node.op_type != "Sub":
        return False
    waiting, seen = [operand(node, 1)], set[ir.Value]()
    while waiting and len(seen) < _MAX_SORTING:
        value = waiting.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        maker = value.producer()
        if maker is not None and maker.op_type == "TopK":
            return True
        waiting.extend(() if maker is None else maker.inputs)
    return False
