"""Redistribution: what becomes of each query row once columns are flagged.

Eq. 11 of the paper, joint over all flagged columns m of a sample, with benign attention q, benign values v and own row sums σ:

    out_i = s_i · Σ_{k∉m} A_ik V_k  +  σ_i · Σ_{k∈m} q_ik v_k,      s_i = σ_i (1 - T_i) / Σ_{k∉m} A_ik,   T_i = Σ_{k∈m} q_ik

Rules, in the order in which they are applied:
1. A sample without a flagged column, or with no unflagged valid column left, comes out as the original product, bit for bit.
2. A query row that sees no flagged column (causal or window mask) comes out as the original product too.
3. T is capped at 1: the benign share of several columns never exceeds the row.
4. A saturated row (unflagged mass below FLOOR · σ) spreads (1 - T) σ evenly over the unflagged columns it can see.
5. A row that sees flagged columns alone has nowhere to move its mass and stays as it is.

Rules 2 and 5 need to know which columns a row sees; `SitePlan.every_row_sees_every_column` says that they cannot occur.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..emit import Emitter
from ..plan import BenignPair, SitePlan
from .context import VISIBLE, MapContext

__all__ = ["FLOOR", "Rows", "redistribute"]

FLOOR = 1e-7
"""Share of a row's sum below which its unflagged mass is float32's own rounding, and not worth scaling up. No higher: what a saturated row
does instead depends on the flagged column, and a protected attribute that draws all but 4e-6 of a row would show through."""

TINY = 1e-30
"""Keeps a division defined where the other branch of a Where is taken."""


@dataclass(frozen=True)
class Rows:
    """Value names; float32 unless said otherwise.

    Attributes:
        flagged: (B, K) bool, the column mask without the samples that rule 1 leaves alone.
        active: (B, 1, 1, 1) or (B, 1, Q, 1) bool, rows that change at all (rules 1 and 2).
        saturated: (B, H, Q, 1) bool (rule 4).
        lost: (B, 1, Q, 1) bool (rule 5); None when it cannot occur.
        scale: s, (B, H, Q, 1).
        spread: (1 - T) σ, (B, H, Q, 1).
        refuge: mean value of the unflagged columns a row sees, (B, H, 1 | Q, D).
        benign: σ · Σ q v, (B, H, Q, D).
        kept: (B, 1, K, 1), 1 at columns that are not flagged.
        refuge_columns: (B, 1, 1 | Q, K), the weights that make `refuge`, rows summing to 1.
    """

    flagged: str
    active: str
    saturated: str
    lost: str | None
    scale: str
    spread: str
    refuge: str
    benign: str
    kept: str
    refuge_columns: str


@dataclass(frozen=True)
class _Seen:
    """What a row sees: counts of valid, flagged and unflagged columns (B, 1, 1 | Q, 1); the columns (B, 1, Q, K) where rows differ."""

    columns: str | None
    valid: str
    flagged: str
    unflagged: str

    def total(self, e: Emitter, x: str) -> str:
        """Sum of x (B, H, K, D) over the columns that a row sees, (B, H, 1 | Q, D)."""
        return e.reduce("Sum", x, 2) if self.columns is None else e.op("MatMul", self.columns, x)


def redistribute(e: Emitter, plan: SitePlan, context: MapContext, mask: str, values: str) -> Rows:
    """Emit the row algebra for a mask (B, K) bool and canonical values (B, H, K, D)."""
    flagged, unflagged, sample = _split_columns(e, context, mask)
    f, u = e.unsqueeze(e.float(flagged), 1, 3), e.unsqueeze(e.float(unflagged), 1, 3)
    one = e.constant(1.0)
    kept = e.op("Sub", one, f, role="kept")
    seen = _seen(e, plan, context, f, u)

    total = e.reduce("Sum", context.map, 3, role="row_sum")
    rest = e.op("MatMul", context.map, kept, role="unflagged_mass")
    refuge_weight = e.op("Div", u, e.op("Max", e.reduce("Sum", u, 2), one))
    refuge = e.op("Div", seen.total(e, e.op("Mul", u, values)), e.op("Max", seen.unflagged, one), role="refuge")

    share, benign = _benign_part(e, plan.benign, seen, f, values, refuge)
    spread = e.op("Mul", total, e.op("Sub", one, share), role="spread")
    active = e.unsqueeze(sample, 2, 3)
    lost = None
    refuge_columns = e.op("Transpose", refuge_weight, perm=[0, 1, 3, 2])
    if seen.columns is not None:
        active = e.op("And", active, e.op("Greater", seen.flagged, e.constant(0.0)))
        lost = e.op("Less", seen.unflagged, e.constant(0.5))
        visible = e.op("Mul", seen.columns, e.op("Transpose", u, perm=[0, 1, 3, 2]))
        refuge_columns = e.op("Div", visible, e.op("Max", seen.unflagged, one))
    return Rows(
        flagged=flagged,
        active=active,
        saturated=e.op("Not", e.op("Greater", rest, e.op("Mul", total, e.constant(FLOOR))), role="saturated"),
        lost=lost,
        scale=e.op("Div", spread, e.op("Max", rest, e.constant(TINY)), role="scale"),
        spread=spread,
        refuge=refuge,
        benign=e.op("Mul", total, benign, role="benign"),
        kept=kept,
        refuge_columns=refuge_columns,
    )


def _split_columns(e: Emitter, context: MapContext, mask: str) -> tuple[str, str, str]:
    """Flagged (B, K), unflagged valid (B, K) and changed samples (B, 1), all bool, after rule 1."""
    half = e.constant(0.5)

    def any_of(columns: str) -> str:
        return e.op("Greater", e.reduce("Max", e.float(columns), 1), half)

    def valid_without(columns: str) -> str:
        others = e.op("Not", columns)
        return others if context.valid is None else e.op("And", context.valid, others)

    sample = e.op("And", any_of(mask), any_of(valid_without(mask)), role="sample")
    flagged = e.op("And", mask, sample, role="flagged")
    return flagged, valid_without(flagged), sample


def _seen(e: Emitter, plan: SitePlan, context: MapContext, flagged: str, unflagged: str) -> _Seen:
    if plan.every_row_sees_every_column:
        count_flagged, count_unflagged = e.reduce("Sum", flagged, 2), e.reduce("Sum", unflagged, 2)
        return _Seen(None, e.op("Add", count_flagged, count_unflagged), count_flagged, count_unflagged)
    visible = e.op("Greater", e.reduce("Mean", context.map, 1), e.constant(VISIBLE))
    if context.valid is not None:
        visible = e.op("And", visible, e.unsqueeze(context.valid, 1, 2))
    columns = e.float(visible)
    count_flagged, count_unflagged = e.op("MatMul", columns, flagged), e.op("MatMul", columns, unflagged)
    return _Seen(columns, e.op("Add", count_flagged, count_unflagged), count_flagged, count_unflagged)


def _benign_part(e: Emitter, pair: BenignPair, seen: _Seen, flagged: str, values: str, refuge: str) -> tuple[str, str]:
    """T (B, H, 1 | Q, 1) and Σ q v (B, H, 1 | Q, D), after rule 3."""
    one = e.constant(1.0)
    if pair.relative:
        level = e.constant(pair.attention.reshape(1, -1, 1, 1))
        unit = e.op("Div", level, e.op("Max", seen.valid, one))
        share = e.op("Mul", unit, seen.flagged)
    else:
        attention = e.constant(pair.attention[None])
        share = e.op("MatMul", attention, flagged)
    cap = e.op("Max", share, one)
    capped = e.op("Div", share, cap, role="benign_share")

    per_column = pair.own_values or (pair.values is not None and pair.values.shape[-2] > 1)
    if not per_column:
        value = refuge if pair.values is None else e.constant(pair.values[None])
        return capped, e.op("Mul", capped, value)
    column_values = values if pair.own_values or pair.values is None else e.constant(pair.values[None])
    hidden = e.op("Mul", flagged, column_values)
    weighed = e.op("Mul", unit, seen.total(e, hidden)) if pair.relative else e.op("MatMul", attention, hidden)
    return capped, e.op("Div", weighed, cap)
