"""Whether the axis before a map's query rows counts heads, or tokens: rows of an image, frames, windows.

Heads see the same tokens, so a column that is flagged in one head is flagged in all. Column k of one image row and
column k of another row are two different tokens, so each row is judged as a separate sample. The two cases have equal
shapes. They differ in the origin of the axis in the values, which is followed back index by index (see `index_trace`).
If the values do not decide, the queries and keys do.

1. It comes from the output features of a projection or an embedding, or is a part of the last axis of an input or of
   an axis that is normalized as features: heads. An axis that also holds the key columns holds tokens, not features.
2. The values have no such axis, or repeat one entry along it: every entry sees the same tokens, as heads do.
3. It passes a projection or an embedding as rows of the input, and leads to no features before that: tokens. (Heads
   may be projected one by one with shared weights; they lead to features before that projection.)
4. Without any projection, keys and values lead to one axis of one input of the graph: tokens.
5. Otherwise it is unknown, and the convention (B, H, Q, K) holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import onnx_ir as ir

from .backward import Scores
from .einsum import equation_of
from .facts import Facts
from .forward import Hit
from .index_trace import everything_behind, through
from .monomials import monomial
from .products import Product, product_operands
from .self_attention import at_scores, is_projection
from .softmax_match import Anchor
from .token_index import Index, index_of
from .view import View, op_types

__all__ = ["Kind", "LeadingAxes", "heads_last", "kind_of"]

_MAX_VISITS = 512
_MAX_KEY_VISITS = 64
"""Maximum number of indices visited when key columns are followed back."""
_NORMALIZING = op_types(
    "LayerNormalization RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization"
    " SkipSimplifiedLayerNormalization LpNormalization"
)
_CONVOLUTIONS = op_types("Conv ConvInteger QLinearConv")

Kind = Literal["features", "tokens", "shared", "unknown"]
"""What an axis counts; "shared": every entry sees the same tokens, whatever the axis counts."""


@dataclass(frozen=True)
class _Origin:
    """Where an axis comes from; `inputs`: indices into graph inputs that are reached without a projection."""

    kind: Kind
    inputs: frozenset[Index] = frozenset()


@dataclass(frozen=True)
class LeadingAxes:
    """The axes of a map before its query rows.

    Attributes:
        hit: gives the canonical order of the axes.
        read, values: map and values as the site reads them.
    """

    view: View
    facts: Facts
    anchor: Anchor
    hit: Hit
    scores: Scores
    read: ir.Value
    values: ir.Value

    def kind(self, axis: int) -> Kind:
        """What a canonical axis counts, by the rules above."""
        product = self.hit.product
        if axis - product.rank in product.values_lack:
            return "shared"
        order = product.probabilities_perm or range(product.rank)
        shape = self.facts.shape(self.values)
        of_values = None
        if shape is not None and len(shape) == product.rank - len(product.values_lack):
            moved = axis - sum(lack + product.rank < axis for lack in product.values_lack)
            behind = (product.values_perm or range(len(shape)))[moved]
            if shape[behind] == 1:
                return "shared"
            of_values = index_of(self.facts, self.values, behind)
        return self.kind_of(of_values, index_of(self.facts, self.read, order[axis]))

    def at_scores(self, index: Index | None) -> Index | None:
        """The index into the score product (queries times keys) that belongs to an index into the map."""
        return at_scores(self.view, self.facts, self.anchor, self.hit, self.scores, index)

    def kind_of(self, of_values: Index | None, of_map: Index | None) -> Kind:
        """What an index counts, given as an index into the values and as one into the map."""
        shape, perm = self.facts.shape(self.values), self.hit.product.values_perm
        keys = None if shape is None else index_of(self.facts, self.values, -2 if perm is None else perm[-2])
        origin = _origin(self.view, self.facts, of_values, _axes_behind(self.view, self.facts, keys))
        if origin.kind != "unknown":
            return origin.kind
        of_scores = _origin(self.view, self.facts, self.at_scores(of_map), ())
        if of_scores.kind == "unknown" and origin.inputs and origin.inputs == of_scores.inputs:
            return "tokens"
        # The axis may be one of the queries only: that does not prove that all entries share the keys.
        return "unknown" if of_scores.kind == "shared" else of_scores.kind


def heads_last(axes: LeadingAxes) -> tuple[Product, bool]:
    """The product with its head axis next to the query rows; and whether there are no heads, since it counts tokens."""
    product = axes.hit.product
    if product.rank < 4 or product.widths != 1:
        return product, False
    last = product.rank - 3
    if axes.kind(last) != "tokens":
        return product, False
    heads = [axis for axis in range(last) if axes.kind(axis) == "features"]
    if not heads or product.values_lack:
        return product, True
    others = (axis for axis in range(last + 1) if axis != heads[-1])
    return product.reordered((*others, heads[-1], product.rank - 2, product.rank - 1)), False


def kind_of(view: View, facts: Facts, values: ir.Value, axis: int, key_axis: int) -> Kind:
    """What `axis` of the values counts; their key columns lie on `key_axis`."""
    keys = _axes_behind(view, facts, index_of(facts, values, key_axis))
    return _origin(view, facts, index_of(facts, values, axis), keys).kind


def _axes_behind(view: View, facts: Facts, start: Index | None) -> frozenset[tuple[ir.Value, int]]:
    nearest = islice(everything_behind(view, facts, start), _MAX_KEY_VISITS)
    return frozenset((index.value, axis) for index in nearest for axis in index.axes)


def _origin(
    view: View,
    facts: Facts,
    start: Index | None,
    columns: Collection[tuple[ir.Value, int]],
    seen: set[Index] | None = None,
) -> _Origin:
    """Where an index comes from; `columns`: axes that hold the key columns; `seen`: indices visited before."""
    seen = set() if seen is None else seen
    if start is None or start in seen:
        return _Origin("unknown")
    waiting = deque([(start, False)])
    seen.add(start)
    found: list[_Origin] = []
    while waiting and len(seen) < _MAX_VISITS:
        index, projected = waiting.popleft()
        node = index.value.producer()
        behind = [replace(index, value=same) for same in view.backward.get(index.value, ())] or None
        if behind is None and node is not None:
            behind = through(view, facts, node, index)
            learned = is_projection(view, node) or _looks_up(view, node)
            ends = not behind and not _is_held(index, columns) and not (projected and _is_whole(facts, index))
            if ends and _counts_features(view, facts, node, index, learned, behind is not None):
                return _Origin("features")
            behind = _in_longer_axis(facts, node, index) if behind is None else behind
            projected |= learned and bool(behind)
        elif behind is None and index.value in view.model.graph.inputs:
            last = facts.rank(index.value) == index.axes[-1] + 1
            if last and not _is_whole(facts, index) and not _is_held(index, columns):
                return _Origin("features")
            found.append(_Origin("unknown", frozenset([replace(index, picks=())])))
        if projected:
            found.append(_Origin("tokens"))
        if behind == []:
            found.append(_Origin("shared"))
        if behind is None:
            found += [_origin(view, facts, one, columns, seen) for one in _single_axes(facts, node, index)]
        for one in behind or ():
            if one not in seen:
                seen.add(one)
                waiting.append((one, projected))
    return _joined(found)


def _single_axes(facts: Facts, node: ir.Node | None, index: Index) -> list[Index]:
    """The indices of single axes, where an index cannot be followed as one.

    It runs over several axes, or over one axis of unknown size that a Reshape made from several.
    """
    value, axes = index.value, range(0)
    if len(index.axes) > 1:
        axes = range(index.axes[0], index.axes[-1] + 1)
    elif node is not None and node.op_type == "Reshape" and _is_whole(facts, index):
        source, target = facts.shape(node.inputs[0]), facts.shapes[value]
        before, behind = monomial(target[: index.axes[0]]), monomial(target[index.axes[0] + 1 :])
        for first in range(len(source or ())):
            for end in range(first + 2, len(source or ()) + 1):
                if source and monomial(source[:first]) == before and monomial(source[end:]) == behind:
                    value, axes = node.inputs[0] or value, range(first, end)
    return [one for axis in axes if (one := index_of(facts, value, axis)) is not None]


def _joined(found: Iterable[_Origin]) -> _Origin:
    """The origin of a combined index: if any part counts tokens, different entries have different tokens."""
    origins = list(found)
    kinds = {origin.kind for origin in origins}
    inputs = frozenset[Index]().union(*(origin.inputs for origin in origins))
    for kind in ("tokens", "features"):
        if kind in kinds:
            return _Origin(kind)
    return _Origin("shared" if kinds == {"shared"} else "unknown", inputs)


def _is_whole(facts: Facts, index: Index) -> bool:
    return index.size == monomial(facts.shapes[index.value][axis] for axis in index.axes)


def _is_held(index: Index, columns: Collection[tuple[ir.Value, int]]) -> bool:
    return any((index.value, axis) in columns for axis in index.axes)


def _looks_up(view: View, node: ir.Node) -> bool:
    return node.op_type == "Gather" and view.is_constant(node.inputs[0])


def _in_longer_axis(facts: Facts, node: ir.Node, index: Index) -> list[Index] | None:
    """A part of an axis that a Split or Slice cut out of a longer axis is a part of that axis, wherever it begins."""
    cut = node.op_type in ("Split", "Slice") and len(index.axes) == 1 and facts.rank(node.inputs[0]) is not None
    return [replace(index, value=source, picks=())] if cut and (source := node.inputs[0]) is not None else None


def _counts_features(view: View, facts: Facts, node: ir.Node, index: Index, learned: bool, of_weights: bool) -> bool:
    """Whether an index that ends at an operator counts features.

    Args:
        learned: the operator is a projection or an embedding.
        of_weights: no computed operand has the index.
    """
    if not learned or of_weights:
        return learned or node.op_type in _NORMALIZING
    rank = len(facts.shapes[index.value])
    if node.op_type in _CONVOLUTIONS:
        return index.axes == (1,)
    factors = product_operands(node)
    if node.op_type == "Einsum" or factors is None:
        return (node.op_type != "Einsum" and index.axes == (rank - 1,)) or _only_in_constants(view, node, index)
    return index.axes == ((rank - 1,) if view.is_constant(factors.second) else (rank - 2,))


def _only_in_constants(view: View, node: ir.Node, index: Index) -> bool:
    """Whether only constant operands of an Einsum have the letters of an index."""
    text = equation_of(node)
    left, _, output = text.partition("->")
    if "." in text or index.axes[-1] >= len(output):
        return False
    letters = {output[axis] for axis in index.axes}
    holders = [value for value, term in zip(node.inputs, left.split(","), strict=False) if letters & {*term}]
    return bool(holders) and all(view.is_constant(value) for value in holders)
