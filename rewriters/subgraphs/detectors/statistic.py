"""`statistic`: robust z-score of column mass (sum of weights) over the map's valid columns; needs no training data.

1. Rows are multiplied by the number of columns that they see, so that 1 means uniform attention under causal and window
   masks too. A column's mean is over the valid rows that see it.
2. Location and scale are the median and the median absolute deviation over valid columns.
3. Known sinks (`exempt`) score -inf.
4. Columns seen by fewer rows than min(`rows`, number of columns) score -inf too, and are left out of rule 2.
5. With `by_values` there is a second score: each head's mass times the norm of the column's value, relative to the
   head's mean norm. The smaller score counts: a column that gets attention but has a small value is a sink, at any
   position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...emit import Emitter
from ...plan import Statistic
from ..context import VISIBLE, FixedSize, MapContext
from .sinks import without_sinks

__all__ = ["scores"]

MAD_TO_SIGMA = 1.4826
"""Makes the median absolute deviation of a normal sample estimate its standard deviation."""


@dataclass(frozen=True)
class _Seen:
    """Value names.

    Attributes:
        columns: (B, Q, K), whether a row sees a column.
        visible: (B, Q, 1), how many columns a row sees.
        rows: (B, K), how many rows see a column.
    """

    columns: str
    visible: str
    rows: str


def scores(e: Emitter, context: MapContext, detector: Statistic) -> str:
    """(B, K) robust z-scores."""
    if (size := _all_judged(context, detector)) is not None:
        return without_sinks(e, context, _fixed_z(e, size, detector, _mass_of(e, context, size)), detector.exempt)
    if context.valid is not None and context.alike and context.self_attention and not detector.by_values:
        return without_sinks(e, context, _z(e, context, detector, _mass_of_valid(e, context)), detector.exempt)
    mean, valid = context.head_mean(e), context.valid_float(e)
    seen = _seen(e, context, mean, valid)
    judged = context
    if detector.rows > 1:
        fewest = e.op("Clip", context.length(e, valid), "", e.constant(detector.rows), role="fewest_rows")
        enough = e.op("Not", e.op("Less", seen.rows, fewest), role="enough_rows")
        enough = enough if context.valid is None else e.op("And", context.valid, enough, role="judged")
        judged = replace(context, valid=enough, ahead=False, common=False)
    score = _z(e, judged, detector, _relative_mass(e, mean, seen))
    if detector.by_values:
        written = _z(e, judged, detector, _written(e, context, seen, valid))
        score = e.op("Where", e.op("Less", written, score), written, score, role="smaller_z")
    if judged.valid is not None and judged is not context:
        score = e.op("Where", judged.valid, score, e.constant(-np.inf))
    return without_sinks(e, context, score, detector.exempt)


def _all_judged(context: MapContext, detector: Statistic) -> FixedSize | None:
    """The size of a small map of which every row sees and every column is judged, by its mass."""
    size = context.size
    if size is None or not (size.small and context.alike) or detector.by_values or size.queries is None:
        return None
    return size if size.queries >= min(detector.rows, size.columns) else None


def _mass_of(e: Emitter, context: MapContext, size: FixedSize) -> str:
    """Column mass relative to uniform attention, (B, K), where rules 1 and 4 have nothing to do."""
    weights = np.full((1, size.queries or 1), size.columns / (size.queries or 1))
    of_heads = e.op("MatMul", e.constant(weights), context.map, role="column_sums")
    return e.reduce("Mean", of_heads, 1, 2, keepdims=False, role="relative_mass")


def _mass_of_valid(e: Emitter, context: MapContext) -> str:
    """The same where valid rows and columns are the same tokens: as many rows see a column as columns are seen."""
    valid = context.valid_float(e)
    rows = context.row_sum(e, context.map, 1, valid, "")
    return e.reduce("Mean", rows, 1, 2, keepdims=False, role="relative_mass")


def _fixed_z(e: Emitter, size: FixedSize, detector: Statistic, mass: str) -> str:
    """Robust z-scores (B, K) of K columns that all count."""
    low, high = (size.columns - 1) // 2, size.columns // 2

    def median(x: str) -> str:
        descending, _ = e.top(x, e.constant([high + 1], np.int64), 1, "sorted")
        middle = e.constant(sorted({low, high}), np.int64)
        picked = e.op("Gather", descending, middle, axis=1, role="median")
        return picked if low == high else e.reduce("Mean", picked, 1, role="median")

    return _robust_z(e, detector, mass, median)


def _seen(e: Emitter, context: MapContext, mean: str, valid: str | None) -> _Seen:
    sees = e.number(e.op("Greater", mean, e.constant(VISIBLE)))
    if valid is not None:
        sees = e.op("Mul", sees, e.unsqueeze(valid, 1))
        if context.self_attention:
            sees = e.op("Mul", sees, e.unsqueeze(valid, 2))
    return _Seen(sees, e.reduce("Sum", sees, 2), e.reduce("Sum", sees, 1, keepdims=False))


def _relative_mass(e: Emitter, mean: str, seen: _Seen) -> str:
    """Column mass relative to uniform attention, (B, K)."""
    mass = e.reduce("Sum", e.op("Mul", e.op("Mul", mean, seen.columns), seen.visible), 1, keepdims=False)
    return e.op("Div", mass, e.at_least(seen.rows, 1.0), role="relative_mass")


def _written(e: Emitter, context: MapContext, seen: _Seen, valid: str | None) -> str:
    """Column mass times the relative norm of the column's value, averaged over heads, (B, K)."""
    assert context.values is not None
    value = context.values(e)
    norm = e.op("Sqrt", e.reduce("Sum", e.op("Mul", value, value), 3, keepdims=False), role="value_norm")  # (B, H, K)
    if valid is not None:
        norm = e.op("Mul", norm, e.unsqueeze(valid, 1))
    length = e.unsqueeze(context.length(e, valid), -1) if valid is not None else context.length(e, valid)
    average = e.op("Div", e.reduce("Sum", norm, 2), length)
    relative = e.op("Div", norm, e.at_least(average, VISIBLE), role="relative_norm")
    # A row's weights for columns that it does not see are nearly 0. A padded row sees no column, so it counts as 0.
    weights = e.unsqueeze(e.op("Transpose", seen.visible, perm=[0, 2, 1]), 1)
    mass = e.squeeze(e.op("MatMul", weights, context.map), 2)
    mass = e.reduce("Mean", e.op("Mul", mass, relative), 1, keepdims=False)
    return e.op("Div", mass, e.at_least(seen.rows, 1.0), role="written_mass")


def _z(e: Emitter, context: MapContext, detector: Statistic, mass: str) -> str:
    """Robust z-scores (B, K) among the valid columns."""
    length = context.length(e, context.valid_float(e))
    return _robust_z(e, detector, mass, lambda x: _median(e, context, x, length))


def _robust_z(e: Emitter, detector: Statistic, mass: str, median: Callable[[str], str]) -> str:
    """Rule 2; median: (B, K) → (B, 1)."""
    deviation = e.op("Sub", mass, median(mass))
    spread = e.op("Mul", median(e.op("Abs", deviation)), e.constant(MAD_TO_SIGMA))
    return e.op("Div", deviation, e.op("Add", spread, e.constant(detector.floor)), role="robust_z")


def _median(e: Emitter, context: MapContext, x: str, length: str) -> str:
    """Median of x (B, K) over valid columns, (B, 1)."""
    if context.valid is not None:
        x = e.op("Where", context.valid, x, e.constant(-np.inf))
    descending, _ = e.top(x, context.columns(e), 1, "sorted")
    middle = context.middle(e, length)  # without padding (2,)
    pick = "Gather" if context.valid is None else "GatherElements"
    return e.reduce("Mean", e.op(pick, descending, middle, axis=1), 1, role="median")
