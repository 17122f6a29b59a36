"""From a Softmax forward to the products that its map enters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import onnx_ir as ir

from .anchors import Anchor
from .axes import Lost, track
from .facts import Facts
from .products import Ended, Product, match_product
from .view import View, op_types

__all__ = ["Hit", "Outcome", "follow_map"]

_MAX_VISITS = 256  # values looked at for one Softmax; a map has a handful of readers, a class head may have many
_INSPECTORS = op_types("Shape Size IsNaN IsInf Greater GreaterOrEqual Less LessOrEqual Equal")
"""Operators that look at a map without carrying it on: guards and shape arithmetic."""
_POSTPROCESSING = op_types("ArgMax ArgMin ReduceMax TopK")
"""What a classifier does beside returning its probabilities; it says nothing about them that the output does not."""


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


@dataclass
class Outcome:
    """Where a map goes: into products, or to an end."""

    hits: list[Hit] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)


def follow_map(view: View, facts: Facts, anchor: Anchor) -> Outcome:
    """Breadth first, so that of two ways to one product the shorter is kept."""
    outcome = Outcome()
    outputs = set(view.model.graph.outputs)
    queue: deque[tuple[ir.Value, int, bool, tuple[ir.Node, ...]]] = deque([(anchor.output, anchor.axis, anchor.assumed, ())])
    seen: set[tuple[ir.Value, int]] = set()
    while queue and len(seen) < _MAX_VISITS:
        value, axis, assumed, path = queue.popleft()
        if (value, axis) in seen:
            continue
        seen.add((value, axis))
        if value in outputs:
            outcome.ends.append(Ended("output", "an output of the graph", path))
        elif value.is_graph_output() and value not in view.forward:
            outcome.ends.append(Ended("no-product", "an output of a Loop or Scan body", path))
        for same in view.forward.get(value, ()):
            queue.append((same, axis, assumed, path))
        for node, index in value.uses():
            if node.op_type in _INSPECTORS or view.function(node) is not None:
                continue
            matched = match_product(view, facts, node, index, axis)
            if isinstance(matched, Product):
                outcome.hits.append(Hit(matched, path, assumed))
            elif matched is not None:
                outcome.ends.append(Ended(matched.code, matched.detail, path, node))
            elif node not in path:
                step = track(facts, node, index, axis)
                if isinstance(step, Lost):
                    outcome.ends.append(Ended("no-product", _reason(node, step), path, node))
                else:
                    queue.append((node.outputs[0], step.axis, assumed or step.assumed, (*path, node)))
    if any(end.code == "output" for end in outcome.ends):
        outcome.ends = [end for end in outcome.ends if end.code != "no-product" or end.detail not in _POSTPROCESSING]
    return outcome


def _reason(node: ir.Node, lost: Lost) -> str:
    return node.op_type if lost.kind != "axis" else f"{node.op_type} merges or splits the normalised axis"
