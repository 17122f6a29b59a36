"""Redistribution where every row sees every valid column: the algebra and the rules are those of `redistribution`.

Rules 2 and 5 cannot occur, so what a row sees is a matter of its sample: counts are (B, 1, 1, 1), and the refuge, the
mean of the unflagged values, is one vector a head. Statistics of rows have shape (B, H, Q), as in `redistribution`.
Each operator less is time at every load, so there are as few as can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

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
        kept_values: (B, H, K, D), 0 in flagged columns.
    """

    flagged: str
    kept_values: str
    _divisor: str  # 1 / s; 1 in saturated rows and in rows that do not change, (B, H, Q, 1)
    _active: str  # (B, 1, 1) bool
    _benign: str  # -Σ q v, (B, H, 1 | Q, D)
    _moved: str  # (1 - T) / number of unflagged columns, times -1, in saturated rows, else 0, (B, H, Q, 1)
    _sum: str  # of the unflagged values, (B, H, 1, D)
    _total: str | None  # σ, (B, H, Q, 1); None where it is 1
    lost: None = None

    def active(self, e: Emitter) -> str:
        """(B, 1, 1, 1) bool, samples that change."""
        return e.once(f"active of maps:{self._active}", lambda: e.unsqueeze(self._active, 3))

    def patched(self, e: Emitter, product: str) -> str:
        """The patched rows (B, H, Q, D) for the product over the unflagged columns.

        In a row that does not change +0 is subtracted, which changes no bit of any number, not even of -0.
        """
        gap = e.op("Add", e.op("MatMul", self._moved, self._sum), self._benign, role="gap")
        if self._total is not None:
            gap = e.op("Mul", gap, self._total)
        return e.op("Sub", e.op("Div", product, self._divisor), gap, role="patched")


@dataclass(frozen=True)
class _Counted:
    """What a column mask says of each sample; the same for all sites that share mask and padding. float32.

    Attributes:
        flagged: (B, K) bool, the mask without samples in which every valid column is flagged.
        kept: (B, 1, K, 1), 0 where flagged, else 1.
        count: (B, 1, 1), how many are flagged; 0 in samples that do not change.
        unflagged: (B, 1, 1), how many are not, times -1.
        length: (B, 1, 1) or (1,), how many are valid, 1 at least.
    """

    flagged: str
    kept: str
    count: str
    unflagged: str
    length: str


def redistribute_alike(e: Emitter, pair: BenignPair, context: MapContext, mask: str, values: str) -> AlikeRows:
    """Emit the row algebra for a mask (B, K) bool and canonical values (B, H, K, D)."""
    one, zero = e.constant(1.0), e.constant(0.0)
    of = _counted(e, context, mask)
    kept_values = e.op("Mul", values, _wide(e, of.kept, pair), role="kept_values")
    total_value = _sum_of_valid(e, context, kept_values)
    share, benign = _benign_part(e, pair, of, values, total_value)
    room = e.op("Sub", one, share, role="room")
    total, unsaturated, divisor = unflagged_rows(e, context, of.kept, room)
    active = e.once(f"active:{of.count}", lambda: e.op("Greater", of.count, e.constant(0.5), role="sample"))
    # What is left of the product of a saturated row is no more than rounding.
    divisor = e.op("Where", e.op("And", unsaturated, active), divisor, one, role="divisor")
    moved = e.op("Where", unsaturated, zero, e.op("Div", room, of.unflagged), role="moved")
    divisor, moved = e.unsqueeze(divisor, 3), e.unsqueeze(moved, 3)
    total = total and e.unsqueeze(total, 3)
    return AlikeRows(of.flagged, kept_values, divisor, active, benign, moved, total_value, total)


def _wide(e: Emitter, kept: str, pair: BenignPair) -> str:
    """(B, 1, K, 1) → (B, 1, K, D), where the plan tells D: onnxruntime multiplies more than twice as fast by that."""
    if pair.values is None:
        return kept
    ones = e.constant(np.ones((1, pair.values.shape[-1])))
    return e.once(f"wide:{kept}:{ones}", lambda: e.op("MatMul", kept, ones, role="kept"))


def _sum_of_valid(e: Emitter, context: MapContext, values: str) -> str:
    """(B, H, 1, D), the sum of values (B, H, K, D) over valid columns."""
    if context.valid is None:
        return e.reduce("Sum", values, 2)
    return e.op("MatMul", context.valid_row(e), values)


def _counted(e: Emitter, context: MapContext, mask: str) -> _Counted:
    valid, zero = context.valid, e.constant(0.0)
    length = context.length(e, context.valid_float(e))

    def once(what: str, make: Callable[[], str]) -> str:
        return e.once(f"{what}:{mask}:{valid}", make)

    real = mask
    if valid is not None and context.masks_have_padding:
        real = once("real", partial(e.op, "And", valid, mask))
    found = once("found", lambda: e.reduce("Sum", e.number(real), 1, role="found"))
    partly = once("partly", lambda: e.op("Less", found, length, role="partly_flagged"))
    flagged = once("flagged", lambda: e.op("And", real, partly, role="flagged"))
    count = once("count", lambda: e.unsqueeze(e.op("Where", partly, found, zero, role="flagged_count"), 2))
    some = context.length_of_rows(e)
    unflagged = once("unflagged", lambda: e.op("Sub", count, some, role="unflagged"))
    return _Counted(flagged, e.kept_columns(flagged), count, unflagged, some)


def _benign_part(e: Emitter, pair: BenignPair, of: _Counted, values: str, total_value: str) -> tuple[str, str]:
    """T (B, H, 1 | Q) and -Σ q v (B, H, 1 | Q, D), after rule 3; total_value: sum of the unflagged values."""
    of_columns = pair.own_values or (pair.values is not None and pair.values.shape[-2] > 1)
    given = values if pair.own_values or pair.values is None else e.constant(pair.values[None])
    if of_columns or not pair.relative:
        columns = e.once(f"columns:{of.kept}", lambda: e.op("Sub", e.constant(1.0), of.kept, role="columns"))
        row = e.once(f"row:{of.kept}", lambda: e.as_row(columns)) if of_columns else ""
    if pair.relative:
        part = e.once(f"part:{of.count}", lambda: e.op("Div", of.count, of.length))
        share = e.op("Mul", e.constant(pair.attention.reshape(1, -1, 1)), part)
        if pair.largest_share > 1.0:  # else T cannot exceed 1
            share = e.op("Clip", share, "", e.constant(1.0), role="benign_share")
        if of_columns:
            unit = e.unsqueeze(e.op("Div", share, e.at_least(of.count, 1.0)), 3)
            return share, e.op("Mul", e.op("Neg", unit), e.op("MatMul", row, given))
        whole = e.unsqueeze(share, 3)
    else:
        attention = e.constant(pair.attention[None])
        whole = e.op("MatMul", attention, columns)
        weights = e.op("Mul", attention, row) if of_columns else ""
        if pair.largest_share > 1.0:
            cap = e.at_least(whole, 1.0)
            whole = e.op("Div", whole, cap, role="benign_share")
            weights = e.op("Div", weights, cap) if of_columns else ""
        share = e.squeeze(whole, 3)
        if of_columns:
            return share, e.op("Neg", e.op("MatMul", weights, given))
    if pair.values is None:
        number = e.once(f"number of maps:{of.unflagged}", lambda: e.unsqueeze(of.unflagged, 3))
        return share, e.op("Mul", whole, e.op("Div", total_value, number, role="refuge"))  # times -1
    return share, e.op("Mul", whole, e.constant(-pair.values[None]))
