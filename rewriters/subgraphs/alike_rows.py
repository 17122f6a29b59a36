"""Redistribution where every row sees every valid column: the algebra and the rules are those of `redistribution`.

Rules 2 and 5 cannot occur, so what a row sees is a matter of its sample: counts are (B, 1, 1, 1), and the refuge, the
mean of the unflagged values, is one vector a head. Statistics of rows have shape (B, H, Q), as in `redistribution`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..emit import Emitter
from ..plan import BenignPair
from .context import MapContext
from .redistribution import unflagged_rows

__all__ = ["AlikeRows", "redistribute_alike"]


@dataclass(frozen=True)
class AlikeRows:
    """Value names; float32 unless said otherwise. As `redistribution.Rows`.

    Attributes:
        flagged: (B, K) bool, the column mask without the samples that rule 1 leaves unchanged.
        divisor: (B, H, Q, 1).
    """

    flagged: str
    divisor: str
    _active: str  # (B, 1, 1, 1) bool
    _benign: str  # -Σ q v, (B, H, 1 | Q, D)
    _refuge: str  # (B, H, 1, D), times -1
    _moved: str  # (1 - T) in saturated rows, else 0, (B, H, Q, 1)
    _total: str | None  # σ, (B, H, Q); None where it is 1
    lost: None = None

    def active(self, e: Emitter) -> str:
        """(B, 1, 1, 1) bool, samples that change."""
        return self._active

    def gap(self, e: Emitter) -> str:
        """(B, H, Q, D), to subtract from the scaled product; 0 in samples that do not change."""
        gap = e.op("Add", e.op("MatMul", self._moved, self._refuge), self._benign, role="gap")
        return gap if self._total is None else e.op("Mul", gap, e.unsqueeze(self._total, 3), role="gap")


def redistribute_alike(e: Emitter, pair: BenignPair, context: MapContext, mask: str, values: str) -> AlikeRows:
    """Emit the row algebra for a mask (B, K) bool and canonical values (B, H, K, D)."""
    if context.valid is not None:  # a column that another site flagged may be padding here
        mask = e.op("And", context.valid, mask)
    half, one, zero = e.constant(0.5), e.constant(1.0), e.constant(0.0)
    columns = e.number(e.unsqueeze(mask, 1, 3))  # (B, 1, K, 1)
    length = context.length_of_maps(e)
    count = e.reduce("Sum", columns, 2)
    others = e.op("Sub", length, count)
    active = e.op("Greater", e.op("Mul", count, others), half, role="sample")
    flagged = e.op("And", mask, e.squeeze(active, 2, 3), role="flagged")
    columns, count = (e.op("Where", active, x, zero) for x in (columns, count))
    kept = e.op("Sub", one, columns, role="kept")
    unflagged = kept if context.valid is None else e.op("Sub", context.valid_of_maps(e), columns)
    sums = e.op("MatMul", e.as_row(unflagged), values)
    # the number of unflagged columns, times -1
    number = e.op("Clip", e.op("Sub", count, length), "", e.constant(-1.0))
    refuge = e.op("Div", sums, number, role="refuge")

    share, benign = _benign_part(e, pair, columns, count, length, values, refuge)
    room = e.op("Sub", one, e.squeeze(share, 3), role="room")
    total, unsaturated, divisor = unflagged_rows(e, context, kept, room)
    divisor = e.op("Where", e.squeeze(active, 3), divisor, one, role="divisor")
    moved = e.op("Where", unsaturated, zero, room, role="moved")
    divisor, moved = e.unsqueeze(divisor, 3), e.unsqueeze(moved, 3)
    return AlikeRows(flagged, divisor, active, benign, refuge, moved, total)


def _benign_part(
    e: Emitter, pair: BenignPair, columns: str, count: str, length: str, values: str, refuge: str
) -> tuple[str, str]:
    """T (B, H, 1 | Q, 1) and -Σ q v (B, H, 1 | Q, D), after rule 3.

    Args:
        columns: (B, 1, K, 1), 1 where flagged; count: how many, (B, 1, 1, 1).
        refuge: times -1.
    """
    of_columns = pair.own_values or (pair.values is not None and pair.values.shape[-2] > 1)
    given = values if pair.own_values or pair.values is None else e.constant(pair.values[None])
    row = e.as_row(columns) if of_columns else ""
    if pair.relative:
        share = e.op("Mul", e.constant(pair.attention.reshape(1, -1, 1, 1)), e.op("Div", count, length))
        if pair.largest_share > 1.0:  # else T cannot exceed 1
            share = e.op("Clip", share, "", e.constant(1.0), role="benign_share")
        if of_columns:
            unit = e.op("Div", share, e.at_least(count, 1.0))
            return share, e.op("Mul", e.op("Neg", unit), e.op("MatMul", row, given))
    else:
        attention = e.constant(pair.attention[None])
        share = e.op("MatMul", attention, columns)
        weights = e.op("Mul", attention, row) if of_columns else ""
        if pair.largest_share > 1.0:
            cap = e.at_least(share, 1.0)
            share = e.op("Div", share, cap, role="benign_share")
            weights = e.op("Div", weights, cap) if of_columns else ""
        if of_columns:
            return share, e.op("Neg", e.op("MatMul", weights, given))
    if pair.values is None:
        return share, e.op("Mul", share, refuge)
    return share, e.op("Mul", share, e.constant(-pair.values[None]))
