"""From a Softmax forward to the products that its map enters."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from .axes import Lost, Moved, track
from .facts import Facts
from .fractions import producer
from .kept import Factor, KeptProduct
from .products import Ended, Product, match_product
from .softmax_match import Anchor
from .view import View, is_standard, op_types, operand

__all__ = ["Hit", "Outcome", "follow_map"]

_MAX_VISITS = 256  # values looked at for one Softmax; a map has a handful of readers, a class head may have many
_MAX_BEYOND = 32  # values looked at after an operator at which the map is lost
_INSPECTORS = op_types("Shape Size IsNaN IsInf Greater GreaterOrEqual Less LessOrEqual Equal")
"""Operators that read a map but do not pass it on: guards and shape arithmetic."""
_POSTPROCESSING = op_types("ArgMax ArgMin ReduceMax TopK")
"""What a classifier computes from its probabilities besides returning them; it is not worth a report of its own."""
_MIXERS = op_types(
    "AveragePool BatchNormalization Conv ConvTranspose CumSum Gather GatherElements GatherND GroupNormalization"
    " InstanceNormalization LRN LayerNormalization LogSoftmax LpPool MaxPool Resize ScatterElements ScatterND Softmax"
    " Upsample"
)
"""Operators that make a different map: they mix an entry with its neighbors, other heads, rows or columns."""
_SIGNED = op_types("Neg Sub")
_UNSIGNED = op_types("Abs Relu")
_MAPS = op_types("Exp HardSigmoid QLinearSoftmax Relu Sigmoid Softmax")
_VIEWS = op_types("Cast Dropout Flatten Gather Identity Reshape Slice Squeeze Transpose Unsqueeze Where")
_MAX_VIEWS = 8


@dataclass(frozen=True)
class Hit:
    """A qualifying product.

    Attributes:
        path: operators between Softmax and product, in order.
        assumed: an axis on the way was assumed, not proven.
    """

    product: Product
    path: tuple[ir.Node, ...]
    assumed: bool

    @property
    def stacked(self) -> bool:
        """Whether the product reads several maps as one."""
        return any(node.op_type == "Concat" for node in self.path)


@dataclass
class Outcome:
    """Where a map goes: the products it enters, and the places where it could not be followed."""

    hits: list[Hit] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)


@dataclass(frozen=True)
class _At:
    """A value on the path of the map, and the axis of its columns there."""

    value: ir.Value
    axis: int
    assumed: bool
    path: tuple[ir.Node, ...]


def follow_map(view: View, facts: Facts, anchor: Anchor) -> Outcome:
    """The products that a map enters. The search is breadth first, so the shortest path to a product is kept."""
    outcome = Outcome()
    outputs = set(view.model.graph.outputs)
    queue = deque([_At(anchor.output, anchor.axis, anchor.assumed, ())])
    seen: set[tuple[ir.Value, int]] = set()
    while queue and len(seen) < _MAX_VISITS:
        at = queue.popleft()
        if (at.value, at.axis) in seen:
            continue
        seen.add((at.value, at.axis))
        if at.value in outputs:
            outcome.ends.append(Ended("output", "an output of the graph", at.path))
        elif at.value.is_graph_output() and at.value not in view.forward:
            outcome.ends.append(Ended("no-product", "an output of a Loop or Scan body", at.path))
        queue.extend(_At(same, at.axis, at.assumed, at.path) for same in view.forward.get(at.value, ()))
        for node, index in at.value.uses():
            if node.op_type not in _INSPECTORS and view.function(node) is None:
                queue.extend(_step(view, facts, outcome, at, node, index))
    if any(end.code == "output" for end in outcome.ends):
        outcome.ends = [end for end in outcome.ends if end.code != "no-product" or end.detail not in _POSTPROCESSING]
    return outcome


def _step(view: View, facts: Facts, outcome: Outcome, at: _At, node: ir.Node, index: int) -> Iterator[_At]:
    """Classify one reader of the map: a product, an end, or an operator that passes the map on."""
    matched = match_product(view, facts, node, index, at.axis)
    if isinstance(matched, Product):
        product = _with_signed_map(matched, at) if _signed(at.path) else matched
        if product is None:
            outcome.ends.append(Ended("signed-map", f"{node.op_type} of a difference", at.path, node))
        else:
            outcome.hits.append(Hit(product, at.path, at.assumed))
    elif matched is not None and matched.code == "constant-values" and _product_follows(view, facts, node, at.axis):
        outcome.ends.append(Ended("mixed-map", f"{matched.detail}, before a product with values", at.path, node))
    elif matched is not None:
        outcome.ends.append(Ended(matched.code, matched.detail, at.path, node))
    elif node not in at.path:
        moved = track(facts, node, index, at.axis)
        if isinstance(moved, Moved) and node.op_type == "Concat" and not _all_maps(node):
            moved = Lost("operator")
        if isinstance(moved, Lost):
            outcome.ends.append(_lost(view, facts, at, node, moved))
        else:
            for output in node.outputs if node.op_type == "Split" else node.outputs[:1]:
                yield _At(output, moved.axis, at.assumed or moved.assumed, (*at.path, node))


def _with_signed_map(product: Product, at: _At) -> Product | None:
    """A plain product of floats whose map has entries below zero; other forms cannot be split by sign."""
    if product.kept is not None or product.scaled or at.path[-1].op_type == "DequantizeLinear":
        return None
    kept = KeptProduct("signed", Factor(at.value), Factor(product.values), product.node.outputs[0])
    return replace(product, kept=kept)


def _signed(path: tuple[ir.Node, ...]) -> bool:
    """Whether a map takes part in a subtraction, and no later operator makes its entries positive again."""
    for node in reversed(path):
        if node.op_type in _UNSIGNED:
            return False
        if node.op_type in _SIGNED:
            return True
    return False


def _all_maps(node: ir.Node) -> bool:
    """Whether all inputs of a Concat are maps, so that its result is a map of more heads or more query rows."""
    for value in node.inputs:
        maker = producer(value)
        for _ in range(_MAX_VIEWS):
            if maker is None or maker.op_type not in _VIEWS:
                break
            maker = producer(operand(maker, 1 if maker.op_type == "Where" else 0))
        if maker is None or maker.op_type not in _MAPS:
            return False
    return True


def _lost(view: View, facts: Facts, at: _At, node: ir.Node, lost: Lost) -> Ended:
    """Why the map cannot be followed. "no-product" is given only where no product follows."""
    if not is_standard(node) and node.domain != "com.microsoft":
        return Ended("unknown-operator", f"{node.domain}.{node.op_type}", at.path, node)
    axis_lost = lost.kind == "axis"
    if (axis_lost or node.op_type in _MIXERS) and _product_follows(view, facts, node, at.axis):
        return Ended("lost-axis" if axis_lost else "mixed-map", node.op_type, at.path, node)
    return Ended(
        "no-product",
        f"{node.op_type} merges or splits the normalized axis" if axis_lost else node.op_type,
        at.path,
        node,
    )


def _product_follows(view: View, facts: Facts, node: ir.Node, axis: int) -> bool:
    """Whether an operator's result enters a product with values, with columns on `axis` or one of the last two axes."""
    queue = deque((node.outputs[0], start) for start in dict.fromkeys((axis, -1, -2)))
    seen: set[tuple[ir.Value, int]] = set()
    while queue and len(seen) < _MAX_BEYOND:
        value, at = queue.popleft()
        if (value, at) in seen:
            continue
        seen.add((value, at))
        for reader, index in value.uses():
            if isinstance(match_product(view, facts, reader, index, at), Product):
                return True
            moved = track(facts, reader, index, at)
            if isinstance(moved, Moved):
                queue.append((reader.outputs[0], moved.axis))
    return False
