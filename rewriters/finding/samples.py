"""Which axis counts the samples of a map, and where it lies at each operator between score product and map.

The leading axis of a map is taken for its samples, all but the last `merged` part of it. That is not to be taken for
granted of a mask (B, K), since windows may be numbered together with samples; nor where heads come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

from .anchors import Anchor
from .backward import Scores
from .facts import Facts
from .forward import Hit
from .index_trace import everything_behind
from .monomials import Monomial
from .products import Product
from .self_attention import along, at_scores
from .token_index import Index, index_of
from .view import View

__all__ = ["samples_first", "samples_in"]

_UNKNOWN = Monomial(1, ("? samples",))
"""How many there are is not known; what leads may go on as long as it likes."""


def samples_first(
    view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores, read: ir.Value, values: ir.Value
) -> Product:
    """The product, with the samples of a map (H, B, Q, K) or (G, H, B, Q, K) put first where its axis is shown to count
    them.

    Shown is what leads back to the first axis of an input of the graph, from the values or from the product of queries
    and keys, or to another axis of one where the first axis of the map leads to none: heads lead to features. An axis
    that leads to the first of an input while the first axis of the map does so, too, shows nothing; nor does another
    axis of one where the first axis of the map has size 1.

    Args:
        read, values: map and values as the site reads them.
    """
    product = hit.product
    if product.rank < 4 or product.values_lack or product.widths != 1:
        return product
    ranks = tuple(range(product.rank))
    order, shared_order = product.probabilities_perm or ranks, product.values_perm or ranks
    behind = [
        [
            *_inputs_behind(view, facts, index_of(facts, values, shared_order[axis])),
            *_inputs_behind(
                view, facts, at_scores(view, facts, anchor, hit, scores, index_of(facts, read, order[axis]))
            ),
        ]
        for axis in ranks[:-2]
    ]
    leading = [any(index.axes == (0,) for index in found) for found in behind]
    single = facts.static(read, order[0] - product.rank) == 1  # has no index that could be followed
    counting = leading if any(leading) else [single or bool(behind[0]), *map(bool, behind[1:])]
    samples = counting.index(True) if True in counting else 0
    if samples == 0:
        return product
    first = (samples, *(axis for axis in ranks if axis != samples))
    probabilities, shared, output = (
        first if perm is None else tuple(perm[axis] for axis in first)
        for perm in (product.probabilities_perm, product.values_perm, product.output_perm)
    )
    return replace(product, probabilities_perm=probabilities, values_perm=shared, output_perm=output)


def _inputs_behind(view: View, facts: Facts, start: Index | None) -> Iterator[Index]:
    """Whole axes of inputs of the graph that an index is equal to."""
    inputs = set(view.model.graph.inputs)
    for index in everything_behind(view, facts, start):
        if index.value in inputs and index.inner == Monomial(1):
            yield index


def samples_in(
    view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores, read: ir.Value, merged: int | None
) -> dict[ir.Node, int]:
    """Operators that make the map `read` of the scores → the axis of their output that, whole, counts the samples,
    where it is known.

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
