"""Which values have one row for each new token of a request, proven by following rows and samples back to the input
that holds the tokens.

1. Tokens are an integer input that a table of embeddings is looked up with (the largest table first: positions and
   token types are looked up too), or an input of embeddings (B, S, E) where no such input exists.
2. *Content* is all that is computed from the looked-up embeddings. Masks, positions and rotary angles are not.
3. Axis 0 of a value is the samples and axis 1 the tokens if both lead back (see `index_trace`) to those axes of the
   input: through projections, sums, norms, and from a fused attention operator to its queries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir
from onnx import TensorProto

from .facts import Facts
from .index_trace import through
from .token_index import Index, index_of, onto
from .view import View, op_types, operand

__all__ = ["TokenRows", "content_of", "token_candidates"]

_MAX_VISITS = 4096
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_RESHAPING = op_types("Cast Identity Reshape Squeeze Unsqueeze Flatten")
_SIZES = op_types("Shape Size")
_TABLES = {
    "Gather": (0, 1),
    "GatherBlockQuantized": (0, 1),
    "EmbedLayerNormalization": (2, 0),
    "QEmbedLayerNormalization": (2, 0),
}
"""Operator → positions of table and ids."""
_SKIPPING = op_types("SkipLayerNormalization SkipSimplifiedLayerNormalization")
_QUERIES_FIRST = op_types("Attention GroupQueryAttention MultiHeadAttention DecoderMaskedMultiHeadAttention")


def token_candidates(view: View, facts: Facts) -> list[tuple[ir.Value, tuple[ir.Value, ...]]]:
    """Inputs that may hold the tokens, likeliest first, each with the embeddings that come from it."""
    inputs = [value for value in view.model.graph.inputs if not value.is_initializer()]
    ids = [value for value in inputs if facts.rank(value) == 2 and facts.element_type(value) in _INTEGERS]
    found = [(value, *_looked_up(view, facts, value)) for value in ids]
    looked_up = sorted((one for one in found if one[2]), key=lambda one: -one[1])
    if looked_up:
        return [(value, outputs) for value, _, outputs in looked_up]
    return [(value, (value,)) for value in inputs if facts.rank(value) == 3 and facts.element_type(value) in _FLOATS]


def _looked_up(view: View, facts: Facts, ids: ir.Value) -> tuple[int, tuple[ir.Value, ...]]:
    """Rows of the largest table that an input looks up, and all that it looks up."""
    rows, outputs = 0, []
    waiting, seen = [ids], {ids}
    while waiting:
        value = waiting.pop()
        for node, index in value.uses():
            table = operand(node, _TABLES[node.op_type][0]) if node.op_type in _TABLES else None
            if table is not None and index == _TABLES[node.op_type][1]:
                if view.is_constant(table) and facts.rank(table) == 2:
                    rows = max(rows, facts.static(table, 0) or 0)
                    outputs.append(node.outputs[0])
            elif node.op_type in _RESHAPING and index == 0 and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                waiting.append(node.outputs[0])
    return rows, tuple(outputs)


def content_of(view: View, embeddings: Iterable[ir.Value]) -> set[ir.Value]:
    """All that is computed from embeddings; sizes do not count."""
    found = set(embeddings)
    waiting = list(found)
    while waiting:
        value = waiting.pop()
        after = [*view.forward.get(value, ())]
        after += [output for node, _ in value.uses() if node.op_type not in _SIZES for output in node.outputs]
        fresh = [one for one in after if one not in found]
        found.update(fresh)
        waiting += fresh
    return found


class TokenRows:
    """Whose samples and tokens the axes of values are.

    Args:
        inputs: inputs that may hold tokens.
    """

    def __init__(self, view: View, facts: Facts, inputs: Iterable[ir.Value]) -> None:
        self._view, self._facts = view, facts
        self._inputs = set(inputs)
        self._known: tuple[dict[Index, frozenset[ir.Value]], ...] = ({}, {})

    def owners(self, value: ir.Value) -> frozenset[ir.Value]:
        """The inputs whose samples and tokens are the first two axes of a value: several where positions are an input
        too, none where this is not proven.
        """
        return self._axis_owners(value, 0) & self._axis_owners(value, 1)

    def index(self, value: ir.Value, axis: int = 1) -> Index | None:
        """The index over the tokens of a value whose second axis they are."""
        return index_of(self._facts, value, axis)

    def behind(self, index: Index) -> list[Index]:
        """The same index one operator further back; nothing where it ends, or where only some entries are picked."""
        same = self._view.backward.get(index.value)
        if same:
            return [replace(index, value=one) for one in same]
        node = index.value.producer()
        if node is None:
            return []
        found = through(self._view, self._facts, node, index)
        return [one for one in (self._beyond(node, index) if found is None else found) if one.picks == index.picks]

    def _beyond(self, node: ir.Node, index: Index) -> list[Index]:
        """Operators that `through` does not know: the sum next to a normalization, lookups, fused attention."""
        kind = node.op_type
        if kind in _SKIPPING and index.value is not node.outputs[0]:
            moved = onto(self._facts, node.outputs[0], replace(index, value=node.outputs[0]), index.axes)
            return [] if moved is None else [moved]
        if kind in _TABLES:
            source = operand(node, _TABLES[kind][1])
        elif kind in _QUERIES_FIRST and index.value is node.outputs[0] and self._facts.rank(operand(node, 0)) == 3:
            source = operand(node, 0)
        else:
            return []
        moved = None if index.axes[-1] > 1 else onto(self._facts, source, index, index.axes)
        return [] if moved is None else [moved]

    def _axis_owners(self, value: ir.Value, axis: int) -> frozenset[ir.Value]:
        start, known = index_of(self._facts, value, axis), self._known[axis]
        if start is None:
            return self._fixed(value, axis)
        waiting, seen = deque([start]), {start}
        owners: frozenset[ir.Value] = frozenset()
        while waiting and len(seen) < _MAX_VISITS:
            index = waiting.popleft()
            if index in known:
                owners |= known[index]
                continue
            if index.value in self._inputs and index.axes == (axis,):
                owners |= {index.value}
            fresh = [one for one in self.behind(index) if one not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
        known.update(dict.fromkeys(seen, owners))
        return owners

    def _fixed(self, value: ir.Value, axis: int) -> frozenset[ir.Value]:
        """An axis of size 1 belongs to the inputs that have size 1 there too."""
        rank = self._facts.rank(value)
        if rank is None or self._facts.static(value, axis - rank) != 1:
            return frozenset()
        return frozenset(
            one for one in self._inputs if self._facts.static(one, axis - (self._facts.rank(one) or 0)) == 1
        )
