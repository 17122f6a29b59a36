"""`statistic`: robust z-score of column mass over the map's own valid columns. No training, no data.

1. Rows are weighed by the number of columns they can see, so that 1 means uniform under causal and window masks too;
   a column's mean runs over the valid rows that can see it.
2. Location and scale are the median and the median absolute deviation over valid columns.
3. Known sinks (`exempt`) score -inf.
"""

from __future__ import annotations

import numpy as np

from ...emit import Emitter
from ...plan import Statistic
from ..context import VISIBLE, MapContext
from .sinks import without_sinks

__all__ = ["scores"]

MAD_TO_SIGMA = 1.4826
"""Makes the median absolute deviation of a normal sample estimate its standard deviation."""


def scores(e: Emitter, context: MapContext, detector: Statistic) -> str:
    """(B, K) robust z-scores."""
    valid = context.valid_float(e)
    mass = _relative_mass(e, context, valid)
    length = context.length(e, valid)
    centre = _median(e, context, mass, length)
    deviation = e.op("Sub", mass, centre)
    spread = _median(e, context, e.op("Abs", deviation), length)
    scale = e.op("Add", e.op("Mul", spread, e.constant(MAD_TO_SIGMA)), e.constant(detector.floor))
    score = e.op("Div", deviation, scale, role="robust_z")
    return without_sinks(e, context, score, detector.exempt)


def _relative_mass(e: Emitter, context: MapContext, valid: str | None) -> str:
    """Column mass in multiples of uniform, (B, K)."""
    mean = context.head_mean(e)
    sees = e.number(e.op("Greater", mean, e.constant(VISIBLE)))
    if valid is not None:
        sees = e.op("Mul", sees, e.unsqueeze(valid, 1))
        if context.self_attention:
            sees = e.op("Mul", sees, e.unsqueeze(valid, 2))
    visible = e.reduce("Sum", sees, 2)
    mass = e.reduce("Sum", e.op("Mul", e.op("Mul", mean, sees), visible), 1, keepdims=False)
    rows = e.reduce("Sum", sees, 1, keepdims=False)
    return e.op("Div", mass, e.at_least(rows, 1.0), role="relative_mass")


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
