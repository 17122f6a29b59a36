"""`com.microsoft` MultiHeadAttention: written out (`microsoft_opened`), or unchanged with its map computed next to it.

1. Queries, keys and values of rank 3, keys and values with their heads first (rank 4, cross-attention), packed QKV (B,
   S, N, 3, H) and packed KV (B, T, N, 2, H); `bias` on operands that have rank 3 or are packed.
2. `key_padding_mask` of rank 1, 2 and 3, `attention_bias`, `unidirectional`, `scale`, `mask_filter_value`.
3. A cache (`past_key`, `past_value`), read from the operator's present outputs.
4. Nothing changes for unflagged samples, on any provider: the output is the operator's own.
5. Refused by the finder: a cache in a shared buffer (`past_sequence_length`, `cache_indirection`) or without present
   outputs, operands and masks of unknown rank.
"""

from __future__ import annotations

import onnx

from ..emit import Emitter
from ..sites import Site
from .microsoft_opened import Heads, can_open, open_operator
from .microsoft_padding import Padding, padding_of, valid_of
from .microsoft_parts import TO_END, attributes_of, input_of, part
from .microsoft_recomputed import Recomputed
from .microsoft_scores import HeadsSource, apart, knows_rows, map_of, rows_of
from .operands import Operands

__all__ = ["FORM", "lower_site"]

FORM = "MultiHeadAttention"

_BIAS, _MASK, _ATTENTION_BIAS, _PAST_KEY = 3, 4, 5, 6


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> Operands:
    """Emit the operator and its map."""
    read = _Operands(e, site, node, int(attributes_of(node)["num_heads"]))
    mask = input_of(node, _MASK)
    plain = not (input_of(node, _ATTENTION_BIAS) or input_of(node, _PAST_KEY) or any(node.output[1:]))
    if not can_open(e, site, node, site.ranks[_MASK] or 0 if mask else 0, plain=plain, flash=True):
        return _attend(e, site, node, read)
    query, key = e.op("Transpose", read.query(e), perm=[0, 2, 1, 3]), read.key(e)
    padding = _padding(e, site, node, key)
    heads = Heads(query, key.canonical(e), read.value(e).canonical(e))
    return open_operator(e, site, node, heads, padding, lambda inner: inner.copy(node, list(node.input), "attention"))


def _attend(e: Emitter, site: Site, node: onnx.NodeProto, read: _Operands) -> Recomputed:
    heads = int(attributes_of(node)["num_heads"])
    output = e.keep(node, "attention").output[0]
    present_key, present_value = (node.output[index] if index < len(node.output) else "" for index in (1, 2))
    query, key = read.query(e), HeadsSource(read.float(e, present_key), True) if present_key else read.key(e)
    past = e.dims(input_of(node, _PAST_KEY), 2, 3) if input_of(node, _PAST_KEY) else None
    padding = _padding(e, site, node, key)
    bias = read.float(e, input_of(node, _ATTENTION_BIAS)) if input_of(node, _ATTENTION_BIAS) else None

    def values(inner: Emitter) -> str:
        return read.float(inner, present_value) if present_value else read.value(inner).canonical(inner)

    def whole(inner: Emitter) -> str:
        return map_of(inner, node, query, key, past, padding, bias)

    def some(inner: Emitter, every: int, further: tuple[int, ...]) -> str:
        return rows_of(inner, node, query, key, padding, every, further)

    valid = valid_of(e, padding, bias, e.dims(query, 0, 1), key.columns(e))
    rows = some if knows_rows(node, past, padding, bias) else None
    return Recomputed("", output, heads, site.dtype, values, valid=valid, emit_map=whole, emit_rows=rows)


def _padding(e: Emitter, site: Site, node: onnx.NodeProto, key: HeadsSource) -> Padding | None:
    mask = input_of(node, _MASK)
    if not mask:
        return None

    def sizes(inner: Emitter) -> tuple[str, str]:
        return inner.dims(node.input[0], 0, 1), key.columns(inner)

    return padding_of(e, mask, site.ranks[_MASK] or 0, sizes, site.size)


class _Operands:
    """Reads queries, keys and values from every form of operands that the node may have."""

    def __init__(self, e: Emitter, site: Site, node: onnx.NodeProto, heads: int) -> None:
        self._site = site
        self._node = node
        self._heads = heads
        self._single = site.dtype == onnx.TensorProto.FLOAT
        self._bias = input_of(node, _BIAS)

    def query(self, e: Emitter) -> str:
        """(B, S, N, H)."""
        if self._rank(0) == 5:
            return self._biased(e, self._unpacked(e, 0, 0), 0)
        return self._biased(e, self._split(e, 0), 0)

    def key(self, e: Emitter) -> HeadsSource:
        return self._operand(e, 1, 1)

    def value(self, e: Emitter) -> HeadsSource:
        return self._operand(e, 2, 2)

    def float(self, e: Emitter, x: str) -> str:
        return x if self._single else e.float(x)

    def _rank(self, index: int) -> int:
        return self._site.ranks[index] or 0 if index < len(self._site.ranks) else 0

    def _operand(self, e: Emitter, index: int, third: int) -> HeadsSource:
        if self._rank(0) == 5:
            return HeadsSource(self._biased(e, self._unpacked(e, 0, third), third), False)
        if self._rank(1) == 5:
            return HeadsSource(self._unpacked(e, 1, third - 1), False)
        if self._rank(index) == 4:
            return HeadsSource(self.float(e, self._node.input[index]), True)
        return HeadsSource(self._biased(e, self._split(e, index), third), False)

    def _split(self, e: Emitter, index: int) -> str:
        return apart(e, self.float(e, self._node.input[index]), self._heads)

    def _unpacked(self, e: Emitter, index: int, which: int) -> str:
        """One of the operands packed along axis 3."""
        return e.squeeze(self.float(e, part(e, self._node.input[index], 3, which, which + 1)), 3)

    def _biased(self, e: Emitter, x: str, third: int) -> str:
        """x (B, S, N, H) plus its part of the bias, which holds D for queries, D for keys and the rest for values."""
        if not self._bias:
            return x
        width = self._width(e)
        ends: tuple[str | int, ...] = (0, width, e.op("Add", width, width), TO_END)
        piece = part(e, self.float(e, self._bias), 0, ends[third], ends[third + 1])
        return e.op("Add", x, e.reshape(piece, self._heads, -1))

    def _width(self, e: Emitter) -> str:
        """D as a 1-D int64 value."""
        if self._rank(0) == 5:
            shape = e.dims(self._node.input[0], 4)
            return e.op("Mul", shape, e.dims(self._node.input[0], 2, 3))
        return e.dims(self._node.input[0], 2)
