"""Whether query row i and key column i of a map are the same token.

Row and column are followed back (see `index_trace`) to their *roots*: the input of the first projection, and the index
into it. Only equal roots prove self-attention; an unknown length, axis or operator proves nothing:

1. Changes of shape, constants, rotary arithmetic, normalization of heads and quantization are passed through, index by
   index.
2. A product with a constant weight (or a convolution) is a projection: its data input is a root.
3. Entries picked along the index (a cache before the keys, only the first token) make it a different one, unless both
   pick the same entries.
4. Roots that differ are compared again after the next projections back (low-rank projections).
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
_REPEATED = op_types(
    "Cast Identity QuantizeLinear DequantizeLinear DynamicQuantizeLinear Reshape Transpose Squeeze Unsqueeze Flatten"
    " Slice Split Gather"
)


def is_self_attention(view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores, read: ir.Value) -> bool:
    """True only where this is proven; see the rules above.

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
    """Whether two indices run over the same tokens, by the rules above; None: an unknown index."""
    if queries is None or keys is None:
        return False
    a, b = (roots(view, facts, index)[0] for index in (queries, keys))
    for _ in range(_LEVELS):
        if a and a == b:
            return True
        a, b = _before(view, facts, a), _before(view, facts, b)
    return False


def at_scores(view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores, index: Index | None) -> Index | None:
    """The index into the score product that belongs to an index into the map; only the map's own path is followed."""
    index = along(view, facts, anchor.output, hit.path, index)
    if index is None or facts.rank(anchor.scores) != facts.rank(anchor.output):
        return None
    return along(view, facts, scores.node.outputs[0], scores.path, replace(index, value=anchor.scores))


def along(view: View, facts: Facts, start: ir.Value, path: Sequence[ir.Node], index: Index | None) -> Index | None:
    """The index at the start of a path that belongs to an index into a value on the path."""
    came = [start, *(node.outputs[0] for node in path)]
    at = next(
        (place for place, value in enumerate(came) if index is not None and _same_value(view, value, index.value)), None
    )
    for place in range(at or 0, 0, -1):
        index = _back(view, facts, path[place - 1], index, came[place - 1])
    return None if index is None or at is None else replace(index, value=start)


def _back(view: View, facts: Facts, node: ir.Node, index: Index | None, source: ir.Value) -> Index | None:
    """One step back along a path; `source` is the previous value, perhaps under another name in the body of `node`."""
    if index is None or not _same_value(view, node.outputs[0], index.value):
        return None
    entry = next((value for value in node.inputs if value is not None and _same_value(view, source, value)), None)
    behind = through(view, facts, node, replace(index, value=node.outputs[0]), entry)
    return next((one for one in behind or () if one.value is entry), None)


def _same_value(view: View, source: ir.Value, value: ir.Value) -> bool:
    """Whether two values are the same one, seen across borders of bodies."""
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
    """Roots one projection further back; a root that does not lead to exactly one projection stays."""
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
                found |= {_before_repeated(view, facts, one) for one in behind}
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
    """Whether a node multiplies a computed value with constant weights."""
    if node.op_type in _PROJECTIONS:
        return True
    factors = product_operands(node)
    return factors is not None and view.is_constant(factors.first) != view.is_constant(factors.second)


def _before_repeated(view: View, facts: Facts, index: Index) -> Index:
    """The index before casts, Q/DQ pairs, shape changes and picks, which exporters insert for each reader."""
    while (node := index.value.producer()) is not None and node.op_type in _REPEATED:
        behind = through(view, facts, node, index)
        if behind is None or len(behind) != 1:
            break
        (index,) = behind
    return index
