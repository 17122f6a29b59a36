"""Which axis counts the samples of a map, and where it lies at each operator between score product and map.

By default the leading axis of a map counts samples, apart from the `merged` heads inside it. For a mask (B, K) this
needs a proof, since windows may be merged with samples, or heads may come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

from .backward import Scores
from .facts import Facts
from .forward import Hit
from .heads import LeadingAxes
from .index_trace import everything_behind
from .monomials import Monomial
from .products import Product
from .self_attention import along
from .softmax_match import Anchor
from .token_index import Index, index_of
from .view import View

__all__ = ["samples_first", "samples_in"]

_UNKNOWN = Monomial(1, ("? samples",))
"""The number of samples is not known; a leading axis may have any length."""


def samples_first(axes: LeadingAxes) -> Product:
    """The product with the samples first, for maps (H, B, Q, K) or (G, H, B, Q, K) where the graph proves their axis.

    An axis counts samples if it leads back, from the values or from the score product, to the first axis of a graph
    input. If no axis does, one that leads to another axis of a graph input is enough, provided that the first axis of
    the map counts features. If the first axis of the map leads to the first axis of an input too, nothing is moved.
    """
    product, view, facts = axes.hit.product, axes.view, axes.facts
    if product.rank < 4 or product.values_lack or product.widths != 1:
        return product
    ranks = tuple(range(product.rank))
    order, shared_order = product.probabilities_perm or ranks, product.values_perm or ranks

    def behind(axis: int) -> Iterator[Index]:
        yield from _inputs_behind(view, facts, index_of(facts, axes.values, shared_order[axis]))
        yield from _inputs_behind(view, facts, axes.at_scores(index_of(facts, axes.read, order[axis])))

    # The later axes first: they mostly end at a projection, the first one goes back through all layers.
    later = {axis: [index.axes == (0,) for index in behind(axis)] for axis in ranks[1:-2]}
    candidates = [axis for axis, found in later.items() if found]
    leading = [axis for axis in candidates if any(later[axis])]
    if not candidates or any(index.axes == (0,) or not leading for index in behind(0)):
        return product
    if not leading and axes.kind(0) != "features":
        return product
    samples = (leading or candidates)[0]
    return product.reordered((samples, *(axis for axis in ranks if axis != samples)))


def _inputs_behind(view: View, facts: Facts, start: Index | None) -> Iterator[Index]:
    """Indices over whole axes of graph inputs that an index is equal to."""
    inputs = set(view.model.graph.inputs)
    for index in everything_behind(view, facts, start):
        if index.value in inputs and index.inner == Monomial(1):
            yield index


def samples_in(
    view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores, read: ir.Value, merged: int | None
) -> dict[ir.Node, int]:
    """Operators between the scores and the map `read` → the axis of their output that counts samples, if known.

    Args:
        merged: number of heads in the leading axis of the map.
    """
    product = hit.product
    if product.rank < 3:
        return {}
    lead = 0 if product.probabilities_perm is None else product.probabilities_perm[0]
    start = Index(read, (lead,), _UNKNOWN, Monomial(merged or 1)) if lead == 0 else index_of(facts, read, lead)
    index = along(view, facts, anchor.output, hit.path, start)
    found: dict[ir.Node, int] = {}
    if index is None or facts.rank(anchor.scores) != facts.rank(anchor.output):
        return found
    for place, node in reversed(list(enumerate((*scores.path, anchor.node)))):
        if (
            index is not None
            and index.inner == Monomial(1)
            and (index.axes == (0,) if lead == 0 else len(index.axes) == 1)
        ):
            found[node] = index.axes[0]
        if node is anchor.node:
            index = None if index is None else replace(index, value=anchor.scores)
        elif index is not None:
            begin = scores.path[place - 1].outputs[0] if place else scores.node.outputs[0]
            index = along(view, facts, begin, [node], index)
    return found
