"""`com.microsoft` GroupQueryAttention: the operator is unchanged, its map is computed next to it.

1. Keys and values are the operator's present outputs, cut to the total length: already rotated, including the cache, in
   buffers that may be longer. Queries are rotated here if the operator rotates them.
2. Separate or packed Q, K and V; any number of key heads; a different `seqlens_k` for each sample; prompt, decoding,
   further prompt.
3. `do_rotary` with `rotary_interleaved`, part of the head's width and `position_ids`; `softcap`, `attention_bias`,
   `local_window_size`, `causal`, `smooth_softmax`, `head_sink`; `scale`.
4. Nothing changes for unflagged samples, on any provider: the output is the operator's own.
5. With `smooth_softmax` and `head_sink` rows sum to less than 1, and each keeps its own sum.
6. Refused by the finder: a quantized cache, a cache of window size, norms of queries and keys inside, `query_seqlens`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..sites import Site
from .answer_row import pick_row
from .microsoft_parts import TO_END, attributes_of, columns_of, input_of, part
from .microsoft_recomputed import Recomputed
from .microsoft_scores import LOWEST, HeadsSource, apart, scaled

__all__ = ["FORM", "Lengths", "lengths_of", "lower_site", "read_lengths"]

FORM = "GroupQueryAttention"

_QUERY, _KEY = 0, 1
_LENGTHS, _TOTAL, _COSINE, _SINE, _POSITIONS, _ATTENTION_BIAS, _SINK = 5, 6, 7, 8, 9, 10, 11


@dataclass(frozen=True)
class Lengths:
    """How far the samples of one call reach, int64.

    Attributes:
        rows: S, 1-D, the number of new tokens.
        total: T, 1-D, the number of columns that are in use.
        own: (B, 1), each sample's number of columns.
        prompt: (1,) bool, whether there are no other tokens than the new ones.
    """

    rows: str
    total: str
    own: str
    prompt: str

    def before(self, e: Emitter) -> str:
        """(B, 1) or (1,): columns in front of the new tokens. A prompt begins at 0, even with padding; later tokens are
        the last ones of their sample.
        """
        return e.op("Where", self.prompt, e.constant([0], np.int64), e.op("Sub", self.own, self.rows))


def lengths_of(e: Emitter, node: onnx.NodeProto, rows: str | None = None) -> Lengths:
    """Read them off the operator's inputs; `rows`: S, where it is known already."""
    total = e.reshape(e.cast(input_of(node, _TOTAL), TensorProto.INT64), 1)
    rows = e.dims(node.input[_QUERY], 1, 2) if rows is None else rows
    own = e.reshape(e.cast(input_of(node, _LENGTHS), TensorProto.INT64), -1, 1)
    own = e.op("Add", own, e.constant([1], np.int64), role="lengths")
    return Lengths(rows, total, own, e.op("Equal", rows, total, role="is_prompt"))


def read_lengths(node: onnx.NodeProto) -> tuple[str, str]:
    """The inputs that `lengths_of` reads if it is given S."""
    return node.input[_LENGTHS], node.input[_TOTAL]


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> Recomputed:
    """Emit the operator and its map."""
    twin = e.keep(node, "attention")
    output = twin.output[0]
    twin.output.extend([""] * (3 - len(twin.output)))
    for index, role in ((1, "present_key"), (2, "present_value")):
        twin.output[index] = twin.output[index] or e.value(role)
    return _MapBuilder(e, site, node, twin.output[1], twin.output[2]).operands(output)


class _MapBuilder:
    """The parts of one map. Letters: N heads, M key heads, S query rows, T key columns, H head size."""

    def __init__(self, e: Emitter, site: Site, node: onnx.NodeProto, present_key: str, present_value: str) -> None:
        self._e = e
        self._site = site
        self._node = node
        self._attributes = attributes_of(node)
        self._present_value = present_value
        self._heads = int(self._attributes["num_heads"])
        self._key_heads = int(self._attributes["kv_num_heads"])
        self._reach = lengths_of(e, node)
        self._rows, self._total, self._lengths = self._reach.rows, self._reach.total, self._reach.own
        self._key = self._cut(e, present_key)

    def operands(self, output: str) -> Recomputed:
        e = self._e
        real = e.op("Less", e.unsqueeze(columns_of(e, self._total), 0), self._lengths, role="real")

        def whole(inner: Emitter) -> str:
            return self._writing_to(inner)._whole()

        def answer(inner: Emitter) -> str:
            return self._writing_to(inner)._answer_row(real)

        def values(inner: Emitter) -> str:
            # After a sample's own length a buffer may hold any number, even NaN.
            value = self._cut(inner, self._present_value)
            value = inner.op("Where", inner.unsqueeze(real, 1, 3), value, inner.constant(0.0))
            return self._repeated(inner, value)

        # Before a sliding window there are real columns that no row sees.
        valid = None if self._attributes.get("local_window_size", -1) > 0 else real
        return Recomputed(
            "",
            output,
            self._heads,
            self._site.dtype,
            values,
            valid=valid,
            emit_map=whole,
            emit_answer=answer,
            answer_valid=real,
        )

    def _writing_to(self, e: Emitter) -> _MapBuilder:
        """The same builder, whose nodes go to another emitter."""
        twin = copy.copy(self)
        twin._e = e
        return twin

    def _whole(self) -> str:
        visible = self._visible()
        query = self._rotated(self._query(self._node.input[_QUERY]), self._rotary_positions())
        return self._masked(query, self._input(_ATTENTION_BIAS), visible)

    def _answer_row(self, real: str) -> str:
        """The last valid row of each sample. It is at the end of the sample, so it sees all real columns, if there is
        no window.
        """
        e = self._e
        last = e.op("Sub", self._lengths, e.constant([1], np.int64))
        row = self._earlier(last, e.op("Sub", self._rows, e.constant([1], np.int64)))
        rows = e.squeeze(row, 1)
        positions = last
        if self._input(_POSITIONS):
            own = part(e, self._input(_POSITIONS), -1, -1, TO_END)
            positions = e.op("Where", self._reach.prompt, e.op("Add", self._first_position(), row), own)
        picked = pick_row(e, self._node.input[_QUERY], rows, 1)
        query = self._rotated(self._query(picked), positions)
        bias = self._input(_ATTENTION_BIAS)
        if bias:
            wide = e.op("Expand", bias, e.shape(e.dims(self._node.input[_QUERY], 0, 1), 1, 1, 1))
            bias = pick_row(e, wide, rows, 2)
        visible, window = real, self._attributes.get("local_window_size", -1)
        if self._attributes.get("causal", 1) and window > 0:
            start = e.op("Sub", last, e.constant([window], np.int64))
            visible = e.op("And", real, e.op("Greater", e.unsqueeze(columns_of(e, self._total), 0), start))
        return self._masked(query, bias, e.unsqueeze(visible, 1, 2))

    def _masked(self, query: str, bias: str, visible: str) -> str:
        """The map of rotated queries (B, S, N, H); visible: bool, broadcasts to the map."""
        e = self._e
        scores = self._scores(scaled(e, query, self._attributes.get("scale", 0.0)), bias)
        return self._map(e.op("Where", visible, scores, e.constant(LOWEST), role="scores"))

    def _input(self, index: int) -> str:
        return input_of(self._node, index)

    def _float(self, e: Emitter, x: str) -> str:
        return x if self._site.dtype == TensorProto.FLOAT else e.float(x)

    def _cut(self, e: Emitter, present: str) -> str:
        """The used part (B, M, T, H) of a buffer that may be longer."""
        return self._float(e, part(e, present, 2, 0, self._total))

    def _repeated(self, e: Emitter, x: str) -> str:
        """(B, M, T, H) → (B, N, T, H), each head N / M times in a row."""
        groups = self._heads // self._key_heads
        if groups == 1:
            return x
        wide = e.op("Expand", e.unsqueeze(x, 2), e.constant([1, 1, groups, 1, 1], np.int64))
        return e.reshape(wide, e.dims(x, 0, 1), self._heads, e.dims(x, 2))

    def _query(self, source: str) -> str:
        """(B, S, N, H) of the operator's queries, or of some of their rows."""
        e = self._e
        query = self._float(e, source)
        packed = not self._input(_KEY)
        heads = self._heads + (2 * self._key_heads if packed else 0)
        split = apart(e, query, heads)
        return part(e, split, 2, 0, self._heads) if packed else split

    def _row_positions(self) -> str:
        """Position of each query row in its sample, (B, S)."""
        e = self._e
        return e.op("Add", self._reach.before(e), e.unsqueeze(columns_of(e, self._rows), 0), role="row_positions")

    def _visible(self) -> str:
        """(B, 1, S, T) bool, or (B, 1, 1, T) where all rows see the same columns."""
        e = self._e
        at = e.unsqueeze(columns_of(e, self._total), 0, 1)
        last = e.op("Sub", self._lengths, e.constant([1], np.int64))
        causal = bool(self._attributes.get("causal", 1))
        # Padded rows of a prompt see the columns up to the sample's end.
        end = e.unsqueeze(self._earlier(self._row_positions(), last) if causal else last, 2)
        visible = e.op("Not", e.op("Greater", at, end))
        window = self._attributes.get("local_window_size", -1)
        if causal and window > 0:
            visible = e.op("And", visible, e.op("Greater", at, e.op("Sub", end, e.constant(window, np.int64))))
        return e.unsqueeze(visible, 1)

    def _earlier(self, a: str, b: str) -> str:
        """The smaller of two int64 values; Min accepts int64 only from opset 12 on."""
        return self._e.op("Where", self._e.op("Less", a, b), a, b)

    def _rotated(self, query: str, positions: str) -> str:
        """Rotary embedding of (B, S, N, H); the tables are (positions, R / 2), R at most H."""
        if not self._attributes.get("do_rotary", 0):
            return query
        e = self._e
        cosine, sine = (
            e.unsqueeze(e.op("Gather", self._float(e, self._input(index)), positions), 2) for index in (_COSINE, _SINE)
        )
        half = e.dims(self._input(_COSINE), 1, 2)
        width = e.op("Add", half, half)
        turning, rest = part(e, query, 3, 0, width), part(e, query, 3, width, TO_END)
        if self._attributes.get("rotary_interleaved", 0):
            pairs = e.reshape(turning, e.dims(turning, 0, 3), -1, 2)
            first, second = (e.squeeze(part(e, pairs, 4, start, start + 1), 4) for start in (0, 1))
        else:
            first, second = part(e, turning, 3, 0, half), part(e, turning, 3, half, TO_END)
        turned = [
            e.op("Sub", e.op("Mul", first, cosine), e.op("Mul", second, sine)),
            e.op("Add", e.op("Mul", second, cosine), e.op("Mul", first, sine)),
        ]
        if self._attributes.get("rotary_interleaved", 0):
            joined = e.reshape(e.op("Concat", *(e.unsqueeze(x, 4) for x in turned), axis=4), e.dims(turning, 0, 4))
        else:
            joined = e.op("Concat", *turned, axis=3)
        return e.op("Concat", joined, rest, axis=3, role="rotated")

    def _rotary_positions(self) -> str:
        """(B, S). A prompt reads only the first entry of `position_ids`, and counts on from there."""
        e = self._e
        if not self._input(_POSITIONS) or not self._attributes.get("do_rotary", 0):
            return self._row_positions()
        counted = e.op("Add", self._first_position(), e.unsqueeze(columns_of(e, self._rows), 0))
        return e.op("Where", self._reach.prompt, counted, self._input(_POSITIONS))

    def _first_position(self) -> str:
        return part(self._e, self._e.reshape(self._input(_POSITIONS), 1, -1), 1, 0, 1)

    def _scores(self, query: str, bias: str) -> str:
        """(B, N, S, T) of scaled queries (B, S, N, H), before masks; all heads of a key head share one product."""
        e = self._e
        ready = e.op("Transpose", query, perm=[0, 2, 1, 3])
        grouped = e.reshape(ready, e.dims(ready, 0, 1), self._key_heads, -1, e.dims(ready, 3))
        scores = e.op("MatMul", grouped, HeadsSource(self._key, True).last(e))
        scores = e.reshape(scores, e.dims(ready, 0, 3), self._total)
        cap = self._attributes.get("softcap", 0.0)
        if cap > 0:
            scores = e.op("Mul", e.op("Tanh", e.op("Div", scores, e.constant(cap))), e.constant(cap))
        if bias:
            scores = e.op("Add", scores, self._float(e, bias))
        return scores

    def _map(self, scores: str) -> str:
        e = self._e
        sink = self._input(_SINK)
        if sink:
            column = e.reshape(self._float(e, sink), 1, self._heads, 1, 1)
        elif self._attributes.get("smooth_softmax", 0) == 1:
            column = e.constant([[[[0.0]]]])
        else:
            return e.op("Softmax", scores, axis=-1, role="map")
        sink_scores = e.op("Expand", column, e.shape(e.dims(scores, 0, 3), 1))
        whole = e.op("Softmax", e.op("Concat", scores, sink_scores, axis=3), axis=-1)
        return part(e, whole, 3, 0, self._total)
