"""Redistribution: how each query row changes when columns are flagged.

Eq. 11 of the paper, joint over all flagged columns m of a sample, with benign attention q, benign values v and own row
sums σ:

    out_i = s_i · Σ_{k∉m} A_ik V_k  +  σ_i · Σ_{k∈m} q_ik v_k,      s_i = σ_i (1 - T_i) / Σ_{k∉m} A_ik,   T_i = Σ_{k∈m}
                                                                                                          q_ik

"Mass" is the sum of the attention weights of some columns. Rules, in the order in which they are applied:
1. A sample without a flagged column, or without an unflagged valid column, gives the original product, bit for bit.
2. A query row that sees no flagged column (causal or window mask) gives the original product too.
3. T is capped at 1: the benign share of several columns is never more than the whole row.
4. A saturated row (unflagged mass below FLOOR · σ) spreads (1 - T) σ evenly over the unflagged columns that it sees.
5. A row that sees only flagged columns has no column to move its mass to, and does not change.

Rules 2 and 5 depend on the columns that a row sees. With `SitePlan.every_row_sees_every_column` or `Site.unmasked` they
cannot occur, see `alike_rows`.

Statistics of rows have shape (B, H, Q), because onnxruntime is slow on tensors whose last axis has size 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..emit import Emitter
from ..plan import BenignPair
from .context import VISIBLE, MapContext

__all__ = ["FLOOR", "Rows", "redistribute", "unflagged_rows"]

FLOOR = 1e-7
"""Share of a row's sum below which its unflagged mass is only float32 rounding, which must not be scaled up.

No higher: what a saturated row does instead depends on the flagged column, so a protected attribute that takes all but
4e-6 of a row would still have an effect.
"""


@dataclass(frozen=True)
class _Seen:
    """What a row sees: its columns (B, 1, Q, K), and counts of them (B, 1, Q)."""

    columns: str
    valid: str
    flagged: str
    unflagged: str

    def total(self, e: Emitter, weight: str, x: str) -> str:
        """Sum of weight (B, 1, 1, K) times x (B, H, K, D) over the columns that a row sees, (B, H, Q, D)."""
        return e.op("MatMul", self.columns, e.op("Mul", _column(e, weight), x))


@dataclass(frozen=True)
class Rows:
    """Value names; float32 unless said otherwise.

    Attributes:
        flagged: (B, K) bool, the column mask without the samples that rule 1 leaves unchanged.
        lost: (B, 1, Q) bool, rows that keep the original product in every case (rule 5).
        divisor: (B, H, Q, 1), 1 / s; infinite in saturated rows (rule 4), 1 in rows that do not change. Not s: the
            smaller the unflagged mass, the larger s is; a tool may convert the graph to half precision, where s
            overflows.
    """

    flagged: str
    lost: str
    divisor: str
    _active: str  # (B, 1, Q) bool
    _unsaturated: str  # (B, H, Q) bool
    _total: str | None  # σ, (B, H, Q); None where it is 1
    _room: str  # 1 - T, (B, H, Q)
    _benign: str  # Σ q v, (B, H, Q, D)
    _refuge: str  # mean value of the unflagged columns a row sees, (B, H, Q, D)
    kept_values: None = None

    def active(self, e: Emitter) -> str:
        """(B, 1, Q, 1) bool, rows with a flagged column (rules 1 and 2)."""
        return e.once(f"active:{self._active}", lambda: e.unsqueeze(self._active, 3))

    def patched(self, e: Emitter, product: str) -> str:
        """The patched rows (B, H, Q, D) for the product over the unflagged columns."""
        return e.op("Sub", e.op("Div", product, self.divisor), self._gap(e), role="patched")

    def _gap(self, e: Emitter) -> str:
        """(B, H, Q, D), to subtract from the scaled product: -σ Σ q v, and in saturated rows -(1 - T) σ · refuge too.

        In a row that does not change it is +0: subtracting +0 changes no bit of any number, not even of -0.
        """
        saturated = e.op("Add", self._benign, e.op("Mul", e.unsqueeze(self._room, 3), self._refuge))
        part = e.op("Neg", e.op("Where", e.unsqueeze(self._unsaturated, 3), self._benign, saturated))
        if self._total is not None:
            part = e.op("Mul", part, e.unsqueeze(self._total, 3))
        return e.op("Where", self.active(e), part, e.constant(0.0), role="gap")


def redistribute(e: Emitter, pair: BenignPair, context: MapContext, mask: str, values: str) -> Rows:
    """Emit the row algebra for a mask (B, K) bool and canonical values (B, H, K, D)."""
    half, one = e.constant(0.5), e.constant(1.0)
    flagged, sample, f, u = _counted(e, context.valid, mask)
    kept = e.once(f"kept:{f}", lambda: e.op("Sub", one, _column(e, f), role="kept"))
    seen = _rows_differ(e, context, f, u)
    lost = e.op("Less", seen.unflagged, half)
    active = e.op("And", sample, e.op("Greater", seen.flagged, half))

    average = e.at_least(seen.unflagged, 1.0)
    refuge = e.op("Div", seen.total(e, u, values), e.unsqueeze(average, 3), role="refuge")
    share, benign = _benign_part(e, pair, seen, f, values, refuge)
    room = e.op("Sub", one, share, role="room")

    total, unsaturated, divisor = unflagged_rows(e, context, kept, room)
    divisor = e.op("Where", unsaturated, divisor, e.constant(np.inf))
    divisor = e.op("Where", active, divisor, one, role="divisor")
    return Rows(flagged, lost, e.unsqueeze(divisor, 3), active, unsaturated, total, room, benign, refuge)


def _counted(e: Emitter, valid: str | None, mask: str) -> tuple[str, str, str, str]:
    """`Rows.flagged`, the samples that rule 1 lets change (B, 1, 1) bool, and the flagged and the unflagged valid
    columns (B, 1, 1, K) float32; once for all sites that have the same mask and padding.
    """

    def once(what: str, make: Callable[[], str]) -> str:
        return e.once(f"{what}:{mask}:{valid}", make)

    def some(columns: str) -> str:
        return e.op("Greater", e.reduce("Sum", columns, 2, 3, keepdims=False), e.constant(0.5))

    # a column that another site flagged may be padding here
    real = mask if valid is None else once("real", partial(e.op, "And", valid, mask))
    others = once("others", partial(e.op, "Not", real) if valid is None else partial(e.op, "Xor", valid, real))
    f = once("flagged row", lambda: e.unsqueeze(e.number(real), 1, 2))
    u = once("unflagged row", lambda: e.unsqueeze(e.number(others), 1, 2))
    sample = once("sample", lambda: e.op("And", some(f), some(u), role="sample"))
    flagged = once("flagged", lambda: e.op("And", real, sample, role="flagged"))
    return flagged, once("sample of rows", lambda: e.unsqueeze(sample, 2)), f, u


def unflagged_rows(e: Emitter, context: MapContext, kept: str, room: str) -> tuple[str | None, str, str]:
    """Rule 4: σ, None where it is 1; which rows are not saturated, bool; and 1 / s, which is for these only.

    Args:
        kept: 0 at flagged columns, else 1, (B, 1, K, 1).
        room: 1 - T, (B, H, 1 | Q).
    """
    mass = e.squeeze(e.op("MatMul", context.map, kept, role="unflagged_mass"), 3)
    total = None if context.rows_sum_to_one else e.reduce("Sum", context.map, 3, keepdims=False, role="row_sum")
    floor = e.constant(FLOOR) if total is None else e.op("Mul", total, e.constant(FLOOR))
    unsaturated = e.op("Greater", mass, floor, role="unsaturated")
    divisor = e.op("Div", mass, room if total is None else e.op("Mul", room, total))
    return total, unsaturated, divisor


def _column(e: Emitter, x: str) -> str:
    """(B, 1, 1, K) → (B, 1, K, 1)."""
    return e.once(f"column:{x}", lambda: e.as_column(x))


def _rows_differ(e: Emitter, context: MapContext, flagged: str, unflagged: str) -> _Seen:
    # Padding may be visible, but it does not count: it is neither flagged nor unflagged.
    columns = e.number(e.op("Greater", e.reduce("Mean", context.map, 1), e.constant(VISIBLE)))
    counts = [e.squeeze(e.op("MatMul", columns, _column(e, part)), 3) for part in (flagged, unflagged)]
    return _Seen(columns, e.op("Add", *counts), *counts)


def _benign_part(e: Emitter, pair: BenignPair, seen: _Seen, flagged: str, values: str, refuge: str) -> tuple[str, str]:
    """T (B, H, Q) and Σ q v (B, H, Q, D), after rule 3."""
    if pair.relative:
        level = e.constant(pair.attention.reshape(1, -1, 1))
        unit = e.op("Div", level, e.at_least(seen.valid, 1.0))
        share = e.op("Mul", unit, seen.flagged)
    else:
        attention = e.constant(pair.attention[None])
        share = e.squeeze(e.op("MatMul", attention, _column(e, flagged)), 3)
    cap = None
    if pair.largest_share > 1.0:  # else T cannot exceed 1
        cap = e.at_least(share, 1.0)
        share = e.op("Div", share, cap, role="benign_share")

    if not pair.own_values and (pair.values is None or pair.values.shape[-2] == 1):
        value = refuge if pair.values is None else e.constant(pair.values[None])
        return share, e.op("Mul", e.unsqueeze(share, 3), value)
    column_values = values if pair.own_values or pair.values is None else e.constant(pair.values[None])
    if pair.relative:
        weighed = e.op("Mul", e.unsqueeze(unit, 3), seen.total(e, flagged, column_values))
    else:
        weighed = e.op("MatMul", e.op("Mul", attention, flagged), column_values)
    return share, weighed if cap is None else e.op("Div", weighed, e.unsqueeze(cap, 3))
