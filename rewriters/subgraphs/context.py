"""The inputs of every subgraph of a site: the canonical map, and which of its columns and rows are real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..emit import Emitter

__all__ = ["VISIBLE", "MapContext"]

VISIBLE = 1e-30
"""A row sees a column if its weight, averaged over heads, is larger than this.

Not zero: masks that add -100 (Swin) leave tiny (denormal) weights.
"""


@dataclass(frozen=True)
class MapContext:
    """Value names, all float32 unless said otherwise.

    Attributes:
        map: A (B, H, Q, K).
        valid: (B, K) bool, columns that are not padding; None where the site has none (fixed-length inputs).
        self_attention: query row i and key column i are the same token, so padded rows are known too.
        rows_sum_to_one: every row sums to 1, up to rounding.
        unmasked: every row sees every column, even with a weight of 0 (`Site.unmasked`).
        values: emits V (B, H, K, D), or (B, 1, K, D) where heads share it; None where nothing reads it.
        answer_row: emits the answer row of the map (B, H, 1, K) (see `plan.Profile`); then `map` may be "".
        some_rows: takes n and further row numbers, and emits rows 0, n, 2n, ... of the map and the further rows; then
            `map` may be "": not computed yet.
    """

    map: str
    valid: str | None
    self_attention: bool
    rows_sum_to_one: bool = False
    unmasked: bool = False
    some_rows: Callable[[Emitter, int, tuple[int, ...]], str] | None = None
    answer_row: Callable[[Emitter], str] | None = None
    values: Callable[[Emitter], str] | None = None

    def head_mean(self, e: Emitter) -> str:
        """(B, Q, K), the mean over heads."""
        return e.reduce("Mean", self.map, 1, keepdims=False, role="head_mean")

    def valid_float(self, e: Emitter) -> str | None:
        valid = self.valid
        return None if valid is None else e.once(f"float:{valid}", lambda: e.number(valid))

    def length(self, e: Emitter, valid_float: str | None) -> str:
        """Number of valid columns, (B, 1) or (1,)."""
        if valid_float is not None:
            return e.once(f"length:{valid_float}", lambda: e.reduce("Sum", valid_float, 1, role="length"))
        return e.size(e.dims(self.map, 3))

    def per_column(self, e: Emitter, x: str) -> str:
        """Expand x, which broadcasts to (B, K), to that shape."""
        batch = e.dims(self.map, 0, 1)
        return e.op("Expand", x, e.shape(batch, e.dims(self.map, 3)))

    def no_columns(self, e: Emitter) -> str:
        """(B, K) bool, all False."""
        if self.valid is not None:
            return e.op("Xor", self.valid, self.valid)
        return self.per_column(e, e.constant(False, np.bool_))

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
            return e.op(
                "MatMul", e.once(f"rows:{valid_float}", lambda: e.unsqueeze(valid_float, 1, 2)), rows, role="column_sum"
            )
        counted = e.strided(valid_float, 1, every)
        share = e.op("Div", counted, e.at_least(e.reduce("Sum", counted, 1), 1.0))
        return e.op("Mul", e.op("MatMul", e.unsqueeze(share, 1, 2), rows, role="column_mean"), length)
