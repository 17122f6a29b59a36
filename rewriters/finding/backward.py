"""From a Softmax back to the product that computes its scores."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import onnx_ir as ir

from .additive import additive_operands
from .axes import Moved, track
from .facts import Facts
from .outer import outer_product, outer_sum
from .products import Ended, Operands, Refused, product_operands
from .softmax_match import Anchor
from .view import View, is_standard, op_types, operand

__all__ = ["SAME_AXES", "Scores", "arrival", "find_scores"]

_MAX_VISITS = 512
_FIRST = op_types(
    "Abs Cast CastLike Clip DequantizeLinear Dropout Elu Expand Flatten Gather Identity LeakyRelu Neg Pad Pow"
    " QuantizeLinear Relu Reshape Slice Split Sqrt Squeeze Tanh Transpose Trilu Unsqueeze"
)
SAME_AXES = op_types("Concat Elu LeakyRelu Tanh")
"""These may lie on the path of scores, not on that of a map. They move no axis; a Concat may make one longer."""
_SEVERAL: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min"), (0, 1)),
    "Where": (1, 2),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
}
_SOURCES = op_types("ConstantOfShape EyeLike Range Shape Size")
"""Operators whose output does not depend on the elements of any tensor."""
_LEARNED_RANK = 3  # a constant of this rank or more is a set of learned queries; a weight matrix has rank 2


@dataclass(frozen=True)
class Scores:
    """The score product.

    Attributes:
        node, operands: the product and its two factors. In additive attention: the product with the constant vector, or
            the sum itself, and the two summands.
        path: operators from just after the product to just before the Softmax.
        learned: one factor is a constant (learned queries).
        additive: see `additive` and `outer`.
        matrix: `node` is a matrix product (or Einsum) of `operands`.
    """

    node: ir.Node
    operands: Operands
    path: tuple[ir.Node, ...]
    learned: bool = False
    additive: bool = False
    matrix: bool = True


def find_scores(view: View, facts: Facts, anchor: Anchor) -> Scores | Refused:
    """The nearest product of two computed factors; one with heads (no head axis of size 1) is preferred."""
    found: list[Scores] = []
    sums: list[Scores] = []
    constant: Ended | None = None
    dead: tuple[ir.Node, ...] = ()
    queue: deque[tuple[ir.Value, tuple[ir.Node, ...]]] = deque([(anchor.scores, ())])
    seen: set[ir.Value] = set()
    while queue and len(seen) < _MAX_VISITS:
        value, path = queue.popleft()
        if value in seen or view.is_constant(value):
            continue
        seen.add(value)
        queue.extend((same, path) for same in view.backward.get(value, ()))
        node = value.producer()
        if node is None or view.function(node) is not None:
            continue
        if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
            constant = constant or Ended("constant-scores", node.op_type, path, node)
            continue
        factors = product_operands(node)
        if factors is None:
            outer = outer_product(view, facts, node)
            if outer is not None:
                found.append(Scores(node, outer, path, additive=True, matrix=False))
                continue
            summands = None if anchor.element_wise else outer_sum(view, facts, node, anchor.axis)
            if summands is not None:
                sums.append(Scores(node, summands, path, additive=True, matrix=False))
            parts = _data_inputs(node)
            dead = dead if parts or dead else (node, *path)
            queue.extend((part, (node, *path)) for part in parts)
            continue
        scores = _as_scores(view, facts, anchor, node, factors, path)
        if isinstance(scores, Scores):
            found.append(scores)
        else:
            constant = constant or Ended(scores.code, scores.detail, path, node)
    if found:
        return min(found, key=lambda scores: _narrow(facts, scores))  # min keeps the nearest of equals
    if sums:
        return sums[0]
    blocked = bool(dead) and dead[0].op_type not in _SOURCES
    code, detail = ("scores-form", dead[0].op_type) if blocked else ("no-scores", _described(anchor.scores))
    return constant or Ended(code, detail, dead[1:], dead[0] if dead else None)


def _data_inputs(node: ir.Node) -> list[ir.Value]:
    if not is_standard(node) and node.domain != "com.microsoft":
        return []
    if node.op_type == "Concat":
        positions: tuple[int, ...] = tuple(range(len(node.inputs)))
    elif node.op_type in _FIRST:
        positions = (0,)
    else:
        positions = _SEVERAL.get(node.op_type, ())
    return [value for value in (operand(node, position) for position in positions) if value is not None]


def _as_scores(
    view: View, facts: Facts, anchor: Anchor, node: ir.Node, factors: Operands, path: tuple[ir.Node, ...]
) -> Scores | Refused:
    constant = [view.is_constant(factors.first), view.is_constant(factors.second)]
    if not any(constant):
        return Scores(node, factors, path)
    weight = factors.first if constant[0] else factors.second
    if (
        (facts.rank(weight) or 0) >= _LEARNED_RANK
        and node.op_type != "Einsum"
        and _normalized_factor(view, facts, anchor, node, path) != constant.index(True)
    ):
        return Scores(node, factors, path, learned=True)
    if facts.static(weight, -1) == 1 or facts.rank(weight) == 1:
        summands = additive_operands(view, facts, factors.second if constant[0] else factors.first)
        if summands is not None:
            return Scores(node, summands, path, additive=True)
    return Refused("constant-scores", f"{node.op_type} with a constant weight")


def _normalized_factor(
    view: View, facts: Facts, anchor: Anchor, product: ir.Node, path: tuple[ir.Node, ...]
) -> int | None:
    """Which factor the normalized axis of a matrix product comes from: 0 (rows) or 1 (columns); None if unknown."""
    starts = enumerate((-2, -1))
    return next((factor for factor, start in starts if arrival(view, facts, product, path, start) == anchor.axis), None)


def arrival(view: View, facts: Facts, product: ir.Node, path: tuple[ir.Node, ...], start: int) -> int | None:
    """Which axis at the end of a path an axis of a product's result becomes; None when it cannot be followed."""
    axis, before = start, product.outputs[0]
    for node in path:
        step = Moved(axis) if node.op_type in SAME_AXES else track(facts, node, view.position(node, before), axis)
        if not isinstance(step, Moved):
            return None
        axis, before = step.axis, node.outputs[0]
    return axis


def _narrow(facts: Facts, scores: Scores) -> bool:
    """Whether the head axis has size 1: such a product is more likely a mask built from two masks than a score map."""
    return facts.static(scores.node.outputs[0], -3) == 1


def _described(value: ir.Value) -> str:
    producer = value.producer()
    return "a graph input" if producer is None else producer.op_type
