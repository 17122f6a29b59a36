"""Maps whose rows are not made to sum to 1: Relu, Sigmoid, Exp and their kin, of scores, number by number.

Such an operator stands in every network, so more is asked of it than of a Softmax. It makes a map where

1. its scores are a matrix product (or Einsum) of two computed factors that is no product of attention itself,
2. a product with computed values contracts one axis of those scores, and rows and columns of the scores are tokens, not
   features,
3. keys and values are shown to be of the same tokens, or both come into the graph as they are.

Nothing is said where 1 or the first half of 2 fail, or where an axis counts features: that is a layer. Where 3 is not
shown, that is said.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from .backward import Scores, arrival
from .facts import Facts
from .forward import Hit
from .products import Ended, stored_axis
from .softmax_match import Anchor
from .tokens import Tokens, tokens_of
from .view import View, attribute

__all__ = ["KEY_AXES", "key_tokens", "weighing"]

KEY_AXES = (-1, -2)
"""Where the key axis of scores may be: columns, or rows of a map that is written the other way round."""


def key_tokens(view: View, facts: Facts, anchor: Anchor, scores: Scores) -> Tokens | None:
    """The tokens that the keys of a `free` anchor are, on the axis that is taken for theirs; None: it is a layer."""
    if not scores.matrix or scores.learned or scores.additive:
        return None
    ends = _factor_axes(facts, scores)
    starts = [start for start in ends if arrival(view, facts, scores.node, scores.path, start) == anchor.axis]
    if len(starts) != 1:
        return Tokens(set(), unknown=True) if ends else None
    side, (keys, axis) = ends[starts[0]]
    found = tokens_of(view, facts, keys, axis)
    queries = next((end for other, end in ends.values() if other != side), None)
    nobody = found.features or not (found.origins or found.unknown)
    return None if nobody or queries is None or tokens_of(view, facts, *queries).features else found


def weighing(view: View, facts: Facts, keys: Tokens, hit: Hit) -> Hit | Ended:
    """A product whose values are of the keys' tokens (rule 3), taken as assumed where both only come into the graph;
    else a refusal.
    """
    product = hit.product
    axis = -2 if product.values_perm is None else product.values_perm[-1 - product.widths] - len(product.values_perm)
    values = tokens_of(view, facts, product.values, axis)
    if keys.may_be_those_of(values):
        return hit if keys.origins & values.origins else replace(hit, assumed=True)
    return Ended("unproven-tokens", product.node.op_type, hit.path, product.node)


def _factor_axes(facts: Facts, scores: Scores) -> dict[int, tuple[int, tuple[ir.Value, int]]]:
    """Axis of the score product → which factor it comes from, and the factor's own axis; axes that both share are left
    out.
    """
    first, second = scores.operands.first, scores.operands.second
    if first is None or second is None:
        return {}
    if scores.node.op_type != "Einsum":
        return {-1: (1, (second, stored_axis(scores.node, 1, -1))), -2: (0, (first, stored_axis(scores.node, 0, -2)))}
    equation = attribute(scores.node, "equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "").replace("...", "")
    left, _, output = text.partition("->")
    terms = left.split(",")
    found = {}
    for position, letter in enumerate(output):
        holders = [index for index, term in enumerate(terms) if letter in term]
        if len(holders) == 1:
            side = holders[0]
            found[position - len(output)] = (
                side,
                ((first, second)[side], terms[side].index(letter) - len(terms[side])),
            )
    return dict(sorted(found.items(), reverse=True))
