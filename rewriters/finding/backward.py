"""From a Softmax back to the product that made its scores."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import onnx_ir as ir

from .additive import additive_operands
from .anchors import Anchor
from .axes import Moved, track
from .facts import Facts
from .products import Ended, Operands, Refused, product_operands
from .view import View, is_standard, op_types, operand

__all__ = ["Scores", "find_scores"]

_MAX_VISITS = 512
_FIRST = op_types(
    "Cast CastLike Clip DequantizeLinear Dropout Expand Flatten Identity Neg QuantizeLinear Reshape Slice Squeeze Tanh Transpose Unsqueeze"
)
_SEVERAL: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min"), (0, 1)),
    "Where": (1, 2),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
}
_LEARNED_RANK = 3  # a constant of this rank or more is a set of learned queries; a weight matrix has rank 2


@dataclass(frozen=True)
class Scores:
    """The score product.

    Attributes:
        node, operands: the product and its two factors; in additive attention the product with the constant vector, and the two parts of
            the sum.
        path: operators from just after the product to just before the Softmax.
        learned: one factor is a constant (learned queries).
        additive: see `additive`.
    """

    node: ir.Node
    operands: Operands
    path: tuple[ir.Node, ...]
    learned: bool = False
    additive: bool = False


def find_scores(view: View, facts: Facts, anchor: Anchor) -> Scores | Refused:
    """The nearest product of two computed factors, where one with heads (no leading axis of size 1) goes before one without."""
    found: list[Scores] = []
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
    return constant or Ended("no-scores", _described(anchor.scores), dead[1:], dead[0] if dead else None)


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


def _as_scores(view: View, facts: Facts, anchor: Anchor, node: ir.Node, factors: Operands, path: tuple[ir.Node, ...]) -> Scores | Refused:
    constant = [view.is_constant(factors.first), view.is_constant(factors.second)]
    if not any(constant):
        return Scores(node, factors, path)
    if all(constant):
        return Refused("constant-scores", f"{node.op_type} of two constants")
    weight = factors.first if constant[0] else factors.second
    if (
        (facts.rank(weight) or 0) >= _LEARNED_RANK
        and node.op_type != "Einsum"
        and _normalised_factor(facts, anchor, node, path) != constant.index(True)
    ):
        return Scores(node, factors, path, learned=True)
    if facts.static(weight, -1) == 1 or facts.rank(weight) == 1:
        summands = additive_operands(view, facts, factors.second if constant[0] else factors.first)
        if summands is not None:
            return Scores(node, summands, path, additive=True)
    return Refused("constant-scores", f"{node.op_type} with a constant weight")


def _normalised_factor(facts: Facts, anchor: Anchor, product: ir.Node, path: tuple[ir.Node, ...]) -> int | None:
    """Which factor of a matrix product the normalised axis comes from: rows 0, columns 1, None when the path hides it."""
    for factor, start in enumerate((-2, -1)):
        axis: int | None = start
        before = product.outputs[0]
        for node in path:
            index = next((i for i, value in enumerate(node.inputs) if value is before), 0)
            step = track(facts, node, index, axis) if axis is not None else None
            axis = step.axis if isinstance(step, Moved) else None
            before = node.outputs[0]
        if axis == anchor.axis:
            return factor
    return None


def _narrow(facts: Facts, scores: Scores) -> bool:
    """A product with a head axis of size 1 is more likely a mask made from two masks than a score map."""
    return facts.static(scores.node.outputs[0], -3) == 1


def _described(value: ir.Value) -> str:
    producer = value.producer()
    return "a graph input" if producer is None else producer.op_type
