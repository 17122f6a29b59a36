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

from dataclasses import dataclass, replace

import numpy as np

from ...emit import Emitter
from ...plan import Statistic
from ..context import VISIBLE, MapContext
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
    mean, valid = context.head_mean(e), context.valid_float(e)
    seen = _seen(e, context, mean, valid)
    judged = context
    if detector.rows > 1:
        fewest = e.op("Clip", context.length(e, valid), "", e.constant(detector.rows), role="fewest_rows")
        enough = e.op("Not", e.op("Less", seen.rows, fewest), role="enough_rows")
        judged = replace(
            context, valid=enough if context.valid is None else e.op("And", context.valid, enough, role="judged")
        )
    score = _z(e, judged, detector, _relative_mass(e, mean, seen))
    if detector.by_values:
        written = _z(e, judged, detector, _written(e, context, seen, valid))
        score = e.op("Where", e.op("Less", written, score), written, score, role="smaller_z")
    if judged.valid is not None and judged is not context:
        score = e.op("Where", judged.valid, score, e.constant(-np.inf))
    return without_sinks(e, context, score, detector.exempt)


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
    length = context.length(e, context.valid_float(e))
    center = _median(e, context, mass, length)
    deviation = e.op("Sub", mass, center)
    spread = _median(e, context, e.op("Abs", deviation), length)
    scale = e.op("Add", e.op("Mul", spread, e.constant(MAD_TO_SIGMA)), e.constant(detector.floor))
    return e.op("Div", deviation, scale, role="robust_z")


def _median(e: Emitter, context: MapContext, x: str, length: str) -> str:
    """Median of x (B, K) over valid columns, (B, 1)."""
    if context.valid is not None:
        x = e.op("Where", context.valid, x, e.constant(-np.inf))
    e.op("TopK", x, e.dims(x, 1), axis=1, role="sorted")
    node = e.nodes[-1]
    node.output.append(e.value("order"))
    descending = node.output[0]
    batch = e.dims(x, 0, 1)
    low = e.op("Floor", e.op("Div", e.op("Sub", length, e.constant(1.0)), e.constant(2.0)))
    high = e.op("Floor", e.op("Div", length, e.constant(2.0)))
    picks = []
    for position in (low, high):
        index = e.cast(e.at_least(position, 0.0), 7)
        index = e.op("Expand", index, e.shape(batch, 1))
        picks.append(e.op("GatherElements", descending, index, axis=1))
    return e.op("Mul", e.op("Add", *picks), e.constant(0.5), role="median")
