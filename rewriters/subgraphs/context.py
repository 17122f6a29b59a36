"""The inputs of every subgraph of a site: the canonical map, and which of its columns and rows are real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..emit import Emitter
from ..plan import SitePlan
from ..sites import Site

__all__ = ["VISIBLE", "FixedSize", "MapContext", "fixed_size", "rows_alike"]

VISIBLE = 1e-30
"""A row sees a column if its weight, averaged over heads, is larger than this.

Not zero: masks that add -100 (Swin) leave tiny (denormal) weights.
"""


_SMALL = 64 * 64
"""Entries of a head's map up to which one more pass over it costs less than further operators."""


@dataclass(frozen=True)
class FixedSize:
    """Q and K of a map whose plan is for one length."""

    queries: int | None
    columns: int

    @property
    def small(self) -> bool:
        return self.queries is not None and self.queries * self.columns <= _SMALL


def fixed_size(site: Site, plan: SitePlan) -> FixedSize | None:
    """What a plan says of the size of a map: its benign attention is for one length. None where it does not."""
    attention = plan.benign.attention
    if plan.benign.relative or attention.shape[2] < 2:
        return None
    columns = int(attention.shape[2])
    rows = int(attention.shape[1]) if attention.shape[1] > 1 else columns if site.self_attention else None
    return FixedSize(rows, columns)


def rows_alike(site: Site, plan: SitePlan) -> bool:
    """Whether every row sees every valid column: a plan says so, or the site shows it."""
    return plan.every_row_sees_every_column or site.unmasked


@dataclass(frozen=True)
class MapContext:
    """Value names, all float32 unless said otherwise.

    Attributes:
        map: A (B, H, Q, K).
        valid: (B, K) bool, columns that are not padding; None where the site has none (fixed-length inputs).
        self_attention: query row i and key column i are the same token, so padded rows are known too.
        rows_sum_to_one: every row sums to 1, up to rounding.
        values: emits V (B, H, K, D), or (B, 1, K, D) where heads share it; None where nothing reads it.
        answer_row: emits the answer row of the map (B, H, 1, K) (see `plan.Profile`); then `map` may be "".
        some_rows: takes n and further row numbers, and emits rows 0, n, 2n, ... of the map and the further rows; then
            `map` may be "": not computed yet.
        size: Q and K where they are fixed; then nothing is padding.
        alike: every row sees every valid column, even with a weight of 0 (see `rows_alike`).
        ahead: `valid` is made of graph inputs in front of the body, and so can be what is made of it.
        common: `valid` is made in the body, and several sites have the same.
        masks_have_padding: masks of flagged columns may hold padding, as one from a site with other padding may.
    """

    map: str
    valid: str | None
    self_attention: bool
    rows_sum_to_one: bool = False
    some_rows: Callable[[Emitter, int, tuple[int, ...]], str] | None = None
    answer_row: Callable[[Emitter], str] | None = None
    values: Callable[[Emitter], str] | None = None
    size: FixedSize | None = None
    alike: bool = False
    ahead: bool = False
    common: bool = False
    masks_have_padding: bool = True

    def shared(self, e: Emitter, key: str, make: Callable[[Emitter], str]) -> str:
        """What is made only of `valid`: once for all sites that have the same, where it can be."""
        if self.ahead:
            return e.ahead(key, make)
        return e.shared(key, make) if self.common else e.once(key, lambda: make(e))

    @property
    def small(self) -> bool:
        """Whether the map is of a fixed size, and small."""
        return self.size is not None and self.size.small

    def columns(self, e: Emitter) -> str:
        """K as a 1-D int64 value."""
        if self.size is not None:
            return e.constant([self.size.columns], np.int64)
        valid = self.valid
        if valid is None:
            return e.dims(self.map, 3)
        return self.shared(e, f"columns:{valid}", lambda body: body.dims(valid, 1))

    def head_mean(self, e: Emitter) -> str:
        """(B, Q, K), the mean over heads."""
        return e.reduce("Mean", self.map, 1, keepdims=False, role="head_mean")

    def valid_float(self, e: Emitter) -> str | None:
        valid = self.valid
        return None if valid is None else self.shared(e, f"float:{valid}", lambda body: body.number(valid))

    def length(self, e: Emitter, valid_float: str | None) -> str:
        """Number of valid columns, (B, 1) or (1,)."""
        if valid_float is not None:
            key = f"length:{valid_float}"
            return self.shared(e, key, lambda body: body.reduce("Sum", valid_float, 1, role="length"))
        return e.size(self.columns(e)) if self.size is None else e.constant([float(self.size.columns)])

    def middle(self, e: Emitter, length: str) -> str:
        """(B, 2) int64: where the one or two middle numbers of a row's valid columns are, in falling order."""

        def make(body: Emitter) -> str:
            around = body.op("Add", length, body.constant([-1.0, 0.0]))
            half = body.op("Floor", body.op("Mul", around, body.constant(0.5)))
            return body.cast(body.at_least(half, 0.0), TensorProto.INT64)

        return self.shared(e, f"middle:{length}", make)

    def length_of_maps(self, e: Emitter) -> str:
        """The same, (B, 1, 1, 1) or (1,)."""
        valid = self.valid_float(e)
        length = self.length(e, valid)
        if valid is None:
            return length
        return self.shared(e, f"length of a map:{length}", lambda body: body.unsqueeze(length, 2, 3))

    def length_of_rows(self, e: Emitter) -> str:
        """The same, (B, 1, 1) or (1,), 1 at least."""
        valid = self.valid_float(e)
        length = self.length(e, valid)
        if valid is None:
            return length

        def make(body: Emitter) -> str:
            return body.unsqueeze(body.at_least(length, 1.0), 2)

        return self.shared(e, f"length of rows:{length}", make)

    def valid_row(self, e: Emitter) -> str:
        """(B, 1, 1, K) float32, 1 at valid columns; where there is padding."""
        valid = self.valid_float(e)
        assert valid is not None
        return self.shared(e, f"rows:{valid}", lambda body: body.unsqueeze(valid, 1, 2))

    def no_columns(self, e: Emitter) -> str:
        """(B, K) bool, all False."""
        if self.valid is not None:
            return e.op("Xor", self.valid, self.valid)
        return self.per_column(e, e.constant(False, np.bool_))

    def per_column(self, e: Emitter, x: str) -> str:
        """Expand x, which broadcasts to (B, K), to that shape."""
        return e.op("Expand", x, e.shape(e.dims(self.map, 0, 1), self.columns(e)))

    def rows(self, e: Emitter, every: int, probes: tuple[int, ...]) -> tuple[str, str | None]:
        """Rows 0, `every`, ... of the map (B, H, R, K) and its probe rows (B, H, P, K), None where there are none."""
        if self.some_rows is None or self.map:
            sampled = self.map if every == 1 else e.strided(self.map, 2, every)
            return sampled, e.op(
                "Gather", self.map, e.constant(probes, np.int64), axis=2, role="probe_rows"
            ) if probes else None
        if all(probe % every == 0 for probe in probes):
            sampled, at = self.some_rows(e, every, ()), [probe // every for probe in probes]
            return sampled, e.op(
                "Gather", sampled, e.constant(at, np.int64), axis=2, role="probe_rows"
            ) if probes else None
        both = self.some_rows(e, every, probes)
        first, end, axis = (e.constant([number], np.int64) for number in (-len(probes), np.iinfo(np.int64).max, 2))
        return e.op("Slice", both, e.constant([0], np.int64), first, axis), e.op("Slice", both, first, end, axis)

    def row_sum(self, e: Emitter, rows: str, every: int, valid_float: str | None, length: str) -> str:
        """Column means over valid query rows times the valid length, (B, H, 1, K).

        Args:
            rows: rows 0, `every`, 2 · `every`, ... of the map, (B, H, R, K).
            length: broadcastable to the result.
        """
        if valid_float is None or not self.self_attention:
            return e.op("Mul", e.reduce("Mean", rows, 2, role="column_mean"), length)
        if every == 1:  # as many rows are valid as columns are
            return e.op("MatMul", self.valid_row(e), rows, role="column_sum")

        def shares(body: Emitter) -> str:
            counted = body.strided(valid_float, 1, every)
            share = body.op("Div", counted, body.at_least(body.reduce("Sum", counted, 1), 1.0))
            return body.op("Mul", body.unsqueeze(share, 1, 2), length, role="shares")

        weights = self.shared(e, f"rows:{every}:{valid_float}:{length}", shares)
        return e.op("MatMul", weights, rows, role="column_sum")
