"""The tokens of one call of a decoder: where they are among the columns of a map, and which token each is healed from.

Letters: B samples, S new tokens, K columns (those of a cache and the new ones).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..lowering.microsoft_group_query import FORM, lengths_of, read_lengths
from ..sites import Site
from ..subgraphs.site import SitePatch

__all__ = ["ClosedUp", "NewTokens", "closed_up", "read_by", "sources", "with_equal_ones"]

_TO_END = np.iinfo(np.int64).max


def read_by(site: Site, node: onnx.NodeProto) -> Iterator[str]:
    """What `NewTokens.of` reads of a site's operator."""
    if site.form == FORM:
        yield from read_lengths(node)


class NewTokens:
    """Cuts the new tokens out of what sites say about columns.

    Args:
        e: writes into the body at hand.
        tokens: graph input (B, S, ...).
    """

    def __init__(self, e: Emitter, tokens: str) -> None:
        self._e = e
        self._size = e.dims(tokens, 1, 2)
        count = e.op("Range", e.constant(0, np.int64), e.squeeze(self._size, 0), e.constant(1, np.int64))
        self.numbers = e.op("Expand", e.unsqueeze(count, 0), e.dims(tokens, 0, 2), role="numbers")
        """(B, S) int64, 0 to S - 1 in every sample."""

    def of(self, site: Site, node: onnx.NodeProto, patch: SitePatch) -> tuple[SitePatch, str]:
        """The patch with scores, masks and validity of the new tokens only, (B, S); and the first valid token of each
        sequence, (B, S) bool, nowhere in a call that does not begin it. It scores -inf and is not in the masks.
        """
        e = self._e
        places = self._by_lengths(node) if site.form == FORM else None
        whole = patch.score or patch.columns
        valid = None if patch.valid is None else self._cut(patch.valid, places)
        sink = self._first(whole, places, patch.valid)
        judged = e.op("Not", sink, role="judged")  # padding is in no mask, and scores -inf or is not seen
        columns = e.op("And", self._cut(patch.columns, places), judged) if patch.columns else ""
        companions = patch.companions and e.op("And", self._cut(patch.companions, places), judged)
        score = patch.score and e.op("Where", judged, self._cut(patch.score, places), e.constant(-np.inf))
        seen = patch.seen and self._cut(patch.seen, places)
        return replace(patch, columns=columns, companions=companions, score=score, seen=seen, valid=valid), sink

    def _by_lengths(self, node: onnx.NodeProto) -> str:
        """(B, S) int64: columns of the new tokens."""
        e = self._e
        before = lengths_of(e, node, self._size).before(e)
        return e.op("Max", e.op("Add", before, self.numbers), e.constant([0], np.int64), role="places")

    def _cut(self, x: str, places: str | None) -> str:
        """(B, K) → (B, S)."""
        e = self._e
        if places is not None:
            return e.op("GatherElements", x, places, axis=1, role="new")
        start = e.op("Sub", e.dims(x, 1, 2), self._size)
        return e.op("Slice", x, start, e.constant([_TO_END], np.int64), e.constant([1], np.int64), role="new")

    def _first(self, whole: str, places: str | None, valid: str | None) -> str:
        """(B, S) bool: the first valid token of its sequence."""
        e = self._e
        if places is not None:
            return e.op("Equal", places, e.constant([0], np.int64), role="first")
        start = e.op("Sub", e.dims(whole, 1, 2), self._size)
        first = e.constant([0], np.int64) if valid is None else e.op("ArgMax", e.number(valid), axis=1, keepdims=1)
        return e.op("Equal", e.op("Add", self.numbers, start), first, role="first")


def sources(e: Emitter, numbers: str, flags: str, valid: str | None, first: str) -> str:
    """(B, S) int64: the token whose key and value each token gets.

    Args:
        numbers: (B, S) int64, 0 to S - 1.
        flags, valid: (B, S) bool; no flagged token is padding.
        first: (B, S) bool, the first valid token of each sequence, which is not flagged.
    """
    healthy = _healthy(e, flags, valid)
    one = e.constant(1, np.int64)
    taken = e.cast(healthy, TensorProto.INT64)
    up_to, others = e.op("CumSum", taken, one), e.op("CumSum", e.op("Sub", one, taken), one)
    total = e.reduce("Sum", taken, 1)
    # healthy tokens first, in order: token n - 1 of them is the last one among those that a flagged token has seen n of
    place = e.op("Sub", e.op("Where", healthy, up_to, e.op("Add", total, others)), one)
    in_order = e.op("ScatterElements", numbers, place, numbers, axis=1, role="healthy_first")
    nearest = e.op("Max", e.op("Sub", up_to, one), e.constant(0, np.int64))
    neighbor = e.op("GatherElements", in_order, nearest, axis=1, role="neighbor")
    moves = e.op("And", flags, e.op("Greater", total, e.constant(0, np.int64)))
    source = e.op("Where", moves, neighbor, numbers)
    origin = e.op("ArgMax", e.number(first), axis=1, keepdims=1, role="origin")
    # In front of token 0 there is none; it is not flagged in a call that begins the sequence.
    before = e.op("Max", e.op("Sub", numbers, one), e.constant(0, np.int64))
    further = e.op("And", flags, e.op("GatherElements", flags, before, axis=1), role="further_of_a_run")
    further = e.op("And", further, e.op("GatherElements", first, origin, axis=1))
    return e.op("Where", further, origin, source, role="source")


@dataclass(frozen=True)
class ClosedUp:
    """How the tokens of a call stand once the flagged ones have left.

    Attributes:
        source: (B, S) int64, the token at each place.
        rank: (B, S) int64, the number of each place among those that are not padding, then of padding.
        total: (B, 1) int64, the number of tokens that have left.
    """

    source: str
    rank: str
    total: str

    def counted(self, e: Emitter, numbers: str) -> str:
        """(B, S) int64: the place whose position each place has, since positions begin behind the gap; -1 in the gap.

        Args:
            numbers: (B, S) int64, 0 to S - 1.
        """
        in_order = e.op("ScatterElements", numbers, self.rank, numbers, axis=1, role="padding_last")
        before = e.op("Sub", self.rank, self.total)
        moved = e.op("GatherElements", in_order, e.op("Max", before, e.constant(0, np.int64)), axis=1)
        hidden = e.op("Less", before, e.constant(0, np.int64), role="gap")
        return e.op("Where", hidden, e.constant(-1, np.int64), moved, role="counted")


def closed_up(e: Emitter, numbers: str, flags: str, valid: str | None) -> ClosedUp:
    """How tokens stand once the flagged ones have left: these come last, in their order, and in front of them is a gap;
    padding stays where it is.

    So the last row is never that of a flagged token, and tokens are as far from each other as in a request without the
    flagged ones. Where the gap is not hidden, the first token also fills it: copies of a first token all compute what
    it computes, whatever rotary embeddings turn.

    Args:
        numbers, flags, valid: see `sources`.
    """
    healthy = _healthy(e, flags, valid)
    one = e.constant(1, np.int64)
    any_left = e.op("Greater", e.reduce("Sum", e.cast(healthy, TensorProto.INT64), 1), e.constant(0, np.int64))
    leaves = e.op("And", flags, any_left)
    out = e.cast(leaves, TensorProto.INT64)
    ahead, total = e.op("CumSum", out, one), e.reduce("Sum", out, 1)
    rank = numbers if valid is None else _padding_last(e, valid)
    closer = e.op("Where", healthy, e.op("Add", rank, e.op("Sub", total, ahead)), rank)
    place = e.op("Where", leaves, e.op("Sub", ahead, one), closer, role="place")
    in_order = e.op("ScatterElements", numbers, place, numbers, axis=1, role="flagged_first")
    source = e.op("GatherElements", in_order, e.op("Max", rank, total), axis=1, role="source")
    return ClosedUp(source, rank, total)


def with_equal_ones(e: Emitter, flags: str, tokens: str, valid: str | None, first: str) -> str:
    """(B, S) bool: the flags, and those of tokens with the id of a flagged one in the same call: a trigger is one
    wherever it stands, and one of eight copies that is left is enough for the attack.

    Args:
        flags, valid, first: see `sources`.
        tokens: graph input (B, S) with ids, no negative ones.
    """
    ids = e.cast(tokens, TensorProto.INT64)
    behind = e.op("Add", e.op("ReduceMax", ids, keepdims=0), e.constant(1, np.int64), role="no_id")
    # Ids that are not flagged all write to the place behind the last one, which nobody reads.
    size = e.op("Concat", e.dims(tokens, 0, 1), e.unsqueeze(e.op("Add", behind, e.constant(1, np.int64)), 0), axis=0)
    nowhere = e.op("Expand", e.constant(0, np.int64), size)
    ones = e.op("Expand", e.constant(1, np.int64), e.dims(tokens, 0, 2))
    marked = e.op("ScatterElements", nowhere, e.op("Where", flags, ids, behind), ones, axis=1, role="flagged_ids")
    equal = e.cast(e.op("GatherElements", marked, ids, axis=1), TensorProto.BOOL)
    equal = e.op("And", equal, e.op("Not", first))
    return e.op("And", equal, valid, role="equal") if valid is not None else equal


def _healthy(e: Emitter, flags: str, valid: str | None) -> str:
    healthy = e.op("Not", flags)
    return healthy if valid is None else e.op("And", healthy, valid)


def _padding_last(e: Emitter, valid: str) -> str:
    """(B, S) int64: the number of each token, where padding is counted behind the valid ones."""
    one = e.constant(1, np.int64)
    real = e.cast(valid, TensorProto.INT64)
    padding = e.op("CumSum", e.op("Sub", one, real), one)
    counted = e.op("Where", valid, e.op("CumSum", real, one), e.op("Add", e.reduce("Sum", real, 1), padding))
    return e.op("Sub", counted, one, role="rank")
