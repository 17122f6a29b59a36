"""Whether query row i and key column i of a map are one token.

Row and column are followed back (see `index_trace`) to their *roots*: what the first projection read, and the index
into it. Only equal roots show self-attention, so a length, an axis or an operator that is not known shows nothing:

1. Shape moves, constants, rotary arithmetic, normalization of heads and quantization are looked through, index by
   index.
2. A product with a constant weight (or a convolution) is a projection: its data input is a root.
3. What is picked along the index (a cache in front of the keys, the first token only) makes it another one, unless both
   pick alike.
4. Roots that differ are compared once more after the next projections back (low-rank projections).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import onnx_ir as ir

from .backward import Scores
from .facts import Facts
from .forward import Hit
from .index_trace import through
from .products import product_operands
from .softmax_match import Anchor
from .token_index import Index, index_of
from .view import View, op_types

__all__ = ["along", "at_scores", "is_projection", "is_self_attention", "roots", "same_tokens"]

_MAX_VISITS = 256
_LEVELS = 3
_PROJECTIONS = op_types("Conv ConvInteger QLinearConv MatMulNBits MatMulBnb4")
_BARE = op_types(
    "Cast Identity QuantizeLinear DequantizeLinear DynamicQuantizeLinear Reshape Transpose Squeeze Unsqueeze Flatten"
    " Slice Split Gather"
)


def is_self_attention(view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores, read: ir.Value) -> bool:
    """True only where it can be shown; see the rule above.

    Args:
        read: the map, as the site reads it; its columns are those of the score product (see `columns`).
    """
    if scores.learned:
        return False
    rows, columns = (
        at_scores(view, facts, anchor, hit, scores, index_of(facts, read, axis))
        for axis in (hit.product.query_axis, hit.product.key_axis)
    )
    return same_tokens(view, facts, rows, None if columns is None else replace(columns, picks=()))


def same_tokens(view: View, facts: Facts, queries: Index | None, keys: Index | None) -> bool:
    """The rule above for two indices; None stands for one that is not known."""
    if queries is None or keys is None:
        return False
    a, b = (roots(view, facts, index)[0] for index in (queries, keys))
    for _ in range(_LEVELS):
        if a and a == b:
            return True
        a, b = _before(view, facts, a), _before(view, facts, b)
    return False


def at_scores(view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores, index: Index | None) -> Index | None:
    """An index into the map, as it is in the result of the score product: along the way of the map only, not into
    masks.
    """
    index = along(view, facts, anchor.output, hit.path, index)
    if index is None or facts.rank(anchor.scores) != facts.rank(anchor.output):
        return None
    return along(view, facts, scores.node.outputs[0], scores.path, replace(index, value=anchor.scores))


def along(view: View, facts: Facts, start: ir.Value, path: Sequence[ir.Node], index: Index | None) -> Index | None:
    """An index into something on a path, as it is at the start of the path."""
    came = [start, *(node.outputs[0] for node in path)]
    at = next(
        (place for place, value in enumerate(came) if index is not None and _crosses(view, value, index.value)), None
    )
    for place in range(at or 0, 0, -1):
        index = _back(view, facts, path[place - 1], index, came[place - 1])
    return None if index is None or at is None else replace(index, value=start)


def _back(view: View, facts: Facts, node: ir.Node, index: Index | None, source: ir.Value) -> Index | None:
    """One step back along a path; `source` is what the path came by,
    perhaps under another name in the body of `node`.
    """
    if index is None or not _crosses(view, node.outputs[0], index.value):
        return None
    entry = next((value for value in node.inputs if value is not None and _crosses(view, source, value)), None)
    behind = through(view, facts, node, replace(index, value=node.outputs[0]), entry)
    return next((one for one in behind or () if one.value is entry), None)


def _crosses(view: View, source: ir.Value, value: ir.Value) -> bool:
    """Whether two values are one, borders of bodies aside."""
    waiting, seen = [value], {value}
    while waiting:
        one = waiting.pop()
        if one is source:
            return True
        new = [same for same in view.backward.get(one, ()) if same not in seen]
        seen.update(new)
        waiting.extend(new)
    return False


def _before(view: View, facts: Facts, indices: Iterable[Index]) -> frozenset[Index]:
    """Roots one projection further back; one that leads to no single projection stays."""
    further: set[Index] = set()
    for index in indices:
        deeper, projected = roots(view, facts, index)
        further |= deeper if projected and len(deeper) == 1 else {index}
    return frozenset(further)


def roots(view: View, facts: Facts, start: Index) -> tuple[frozenset[Index], bool]:
    """Roots of an index, and whether every one is the input of a projection."""
    found: set[Index] = set()
    all_projected = True
    waiting, seen = [start], {start}
    while waiting:
        index = waiting.pop()
        node = index.value.producer()
        behind: list[Index] | None = [replace(index, value=same) for same in view.backward.get(index.value, ())] or None
        if behind is None and node is not None and len(seen) < _MAX_VISITS:
            behind = through(view, facts, node, index)
            if behind is not None and is_projection(view, node):
                found |= {_bare(view, facts, one) for one in behind}
                continue
        if behind is None:
            found.add(index)
            all_projected = False
        for one in behind or ():
            if one not in seen:
                seen.add(one)
                waiting.append(one)
    return frozenset(found), all_projected


def is_projection(view: View, node: ir.Node) -> bool:
    """Whether a node multiplies what is computed with constant weights."""
    if node.op_type in _PROJECTIONS:
        return True
    factors = product_operands(node)
    return factors is not None and view.is_constant(factors.first) != view.is_constant(factors.second)


def _bare(view: View, facts: Facts, index: Index) -> Index:
    """The index behind casts, Q/DQ pairs, shape moves and picks, which exporters insert once for each reader."""
    while (node := index.value.producer()) is not None and node.op_type in _BARE:
        behind = through(view, facts, node, index)
        if behind is None or len(behind) != 1:
            break
        (index,) = behind
    return index
