"""Redistribution where every row sees every valid column: the algebra and the rules are those of `redistribution`.

Rules 2 and 5 cannot occur, so what a row sees is a matter of its sample: counts are (B, 1, 1, 1), and the refuge, the
mean of the unflagged values, is one vector a head. Statistics of rows have shape (B, H, Q), as in `redistribution`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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


@dataclass(frozen=True)
class _Counted:
    """What a column mask says of each sample; the same for all sites that share mask and padding. float32.

    Attributes:
        active: (B, 1, 1, 1) bool, samples that change.
        flagged: (B, K) bool, the mask without the other samples.
        columns: (B, 1, K, 1), 1 where flagged.
        kept: (B, 1, K, 1), 1 where not flagged.
        unflagged: (B, 1, 1, K), 1 at valid columns that are not flagged.
        number: (B, 1, 1, 1), how many these are, times -1.
        count: (B, 1, 1, 1), how many are flagged.
        length: (B, 1, 1, 1) or (1,), how many are valid.
    """

    active: str
    flagged: str
    columns: str
    kept: str
    unflagged: str
    number: str
    count: str
    length: str


def redistribute_alike(e: Emitter, pair: BenignPair, context: MapContext, mask: str, values: str) -> AlikeRows:
    """Emit the row algebra for a mask (B, K) bool and canonical values (B, H, K, D)."""
    one, zero = e.constant(1.0), e.constant(0.0)
    of = _counted(e, context, mask)
    refuge = e.op("Div", e.op("MatMul", of.unflagged, values), of.number, role="refuge")
    share, benign = _benign_part(e, pair, of, values, refuge)
    room = e.op("Sub", one, e.squeeze(share, 3), role="room")
    total, unsaturated, divisor = unflagged_rows(e, context, of.kept, room)
    sample = e.once(f"sample:{of.active}", lambda: e.squeeze(of.active, 3))
    divisor = e.op("Where", sample, divisor, one, role="divisor")
    moved = e.op("Where", unsaturated, zero, room, role="moved")
    divisor, moved = e.unsqueeze(divisor, 3), e.unsqueeze(moved, 3)
    return AlikeRows(of.flagged, divisor, of.active, benign, refuge, moved, total)


def _counted(e: Emitter, context: MapContext, mask: str) -> _Counted:
    half, one, zero = e.constant(0.5), e.constant(1.0), e.constant(0.0)
    length, valid = context.length_of_maps(e), context.valid

    def once(what: str, make: Callable[[], str]) -> str:
        return e.once(f"{what}:{mask}:{valid}", make)

    # a column that another site flagged may be padding here
    real = mask if valid is None else once("real", partial(e.op, "And", valid, mask))
    given = once("given", lambda: e.number(e.unsqueeze(real, 1, 3)))
    found = once("found", lambda: e.reduce("Sum", given, 2))
    others = once("others", lambda: e.op("Sub", length, found))
    active = once("active", lambda: e.op("Greater", e.op("Mul", found, others), half, role="sample"))
    flagged = once("flagged", lambda: e.op("And", real, e.squeeze(active, 2, 3), role="flagged"))
    columns = once("columns", lambda: e.op("Where", active, given, zero))
    count = once("count", lambda: e.op("Where", active, found, zero))
    kept = once("kept", lambda: e.op("Sub", one, columns, role="kept"))
    free = kept if valid is None else once("free", lambda: e.op("Sub", context.valid_of_maps(e), columns))
    number = once("number", lambda: e.op("Clip", e.op("Sub", count, length), "", e.constant(-1.0)))
    row = once("row", lambda: e.as_row(free))
    return _Counted(active, flagged, columns, kept, row, number, count, length)


def _benign_part(e: Emitter, pair: BenignPair, of: _Counted, values: str, refuge: str) -> tuple[str, str]:
    """T (B, H, 1 | Q, 1) and -Σ q v (B, H, 1 | Q, D), after rule 3; refuge: times -1."""
    of_columns = pair.own_values or (pair.values is not None and pair.values.shape[-2] > 1)
    given = values if pair.own_values or pair.values is None else e.constant(pair.values[None])
    row = e.once(f"row:{of.columns}", lambda: e.as_row(of.columns)) if of_columns else ""
    if pair.relative:
        part = e.once(f"part:{of.count}", lambda: e.op("Div", of.count, of.length))
        share = e.op("Mul", e.constant(pair.attention.reshape(1, -1, 1, 1)), part)
        if pair.largest_share > 1.0:  # else T cannot exceed 1
            share = e.op("Clip", share, "", e.constant(1.0), role="benign_share")
        if of_columns:
            unit = e.op("Div", share, e.at_least(of.count, 1.0))
            return share, e.op("Mul", e.op("Neg", unit), e.op("MatMul", row, given))
    else:
        attention = e.constant(pair.attention[None])
        share = e.op("MatMul", attention, of.columns)
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
