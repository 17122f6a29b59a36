"""Maps whose rows are not normalized to sum to 1: Relu, Sigmoid, Exp and similar operators on each score.

Every network has such operators, so the conditions are stricter than for a Softmax. The operator makes a map if

1. its scores are a matrix product (or Einsum) of two computed factors that is not itself a P·V product,
2. a product with computed values contracts one axis of those scores, and rows and columns of the scores are tokens, not
   features,
3. keys and values are proven to belong to the same tokens, or both are graph inputs.

If 1 or the first half of 2 fails, or an axis counts features, this is an ordinary layer and is not reported. If only 3
is not proven, the operator is rejected with that reason.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from .backward import Scores, arrival
from .einsum import equation_of
from .facts import Facts
from .forward import Hit
from .products import Ended, stored_axis
from .softmax_match import Anchor
from .tokens import Tokens, tokens_of
from .view import View

__all__ = ["KEY_AXES", "key_tokens", "weighing"]

KEY_AXES = (-1, -2)
"""Where the key axis of scores may be: columns, or rows of a transposed map."""


def key_tokens(view: View, facts: Facts, anchor: Anchor, scores: Scores) -> Tokens | None:
    """Tokens of the keys of an `element_wise` anchor, if `anchor.axis` is their axis; None: an ordinary layer."""
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
    """The product if its values belong to the keys' tokens (rule 3; assumed if both are graph inputs), or a refusal."""
    product = hit.product
    axis = -2 if product.values_perm is None else product.values_perm[-1 - product.widths] - len(product.values_perm)
    values = tokens_of(view, facts, product.values, axis)
    if keys.may_be_those_of(values):
        return hit if keys.origins & values.origins else replace(hit, assumed=True)
    return Ended("unproven-tokens", product.node.op_type, hit.path, product.node)


def _factor_axes(facts: Facts, scores: Scores) -> dict[int, tuple[int, tuple[ir.Value, int]]]:
    """Axis of the score product → its factor, and the axis there; axes of both factors are left out."""
    first, second = scores.operands.first, scores.operands.second
    if first is None or second is None:
        return {}
    if scores.node.op_type != "Einsum":
        return {-1: (1, (second, stored_axis(scores.node, 1, -1))), -2: (0, (first, stored_axis(scores.node, 0, -2)))}
    left, _, output = equation_of(scores.node).replace("...", "").partition("->")
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
