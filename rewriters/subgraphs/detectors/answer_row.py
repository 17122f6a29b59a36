"""Features of the answer row, where a decoder's answer is read (see `plan.Profile`).

1. A column's feature is its entry in each head × the number of columns that the row sees, log1p. With `seeing_rows`
   also mean and maximum of the same over all valid rows that see the column.
2. Judged are the valid columns that the row sees, but not the first valid one: it is an attention sink in every
   request. All others score -inf.
3. Where sites add up their scores, a column that the row does not see, as in front of a sliding window, adds nothing:
   other sites may see it. One that no site sees scores -inf.
"""

from __future__ import annotations

import numpy as np

from ...emit import Emitter
from ...lowering.answer_row import answer_rows, counted, pick_row
from ...plan import OneClass, Profile
from ..context import VISIBLE, MapContext

__all__ = ["answer_features", "heads_of", "judged", "only_judged", "seen"]


def answer_features(
    e: Emitter, context: MapContext, heads: int, together: str | None = None, *, seeing_rows: bool = False
) -> str:
    """(B, H, K), or (B, 3 · H, K) with `seeing_rows`. together: (B, K, K), see `profile.column_features`."""
    row = _row(e, context, heads)
    count = e.unsqueeze(e.reduce("Sum", e.number(_seen(e, context, row)), 1), 2)
    relative = e.op("Mul", row, count)
    if seeing_rows:
        relative = e.op("Concat", relative, *_of_seeing_rows(e, context), axis=1)
    if together is not None:
        relative = e.op("MatMul", relative, together, role="summed_attention")
    return e.op("Log", e.op("Add", relative, e.constant(1.0)), role="features")


def heads_of(detector: Profile | OneClass) -> int:
    """H of the maps that a detector reads."""
    return detector.map_features // detector.map_blocks


def only_judged(e: Emitter, context: MapContext, heads: int, score: str) -> str:
    """Scores (B, K), -inf where a column is not judged."""
    return e.op("Where", judged(e, context, heads), score, e.constant(-np.inf), role="judged_score")


def seen(e: Emitter, context: MapContext, heads: int) -> str:
    """(B, K) bool: the valid columns that the row sees."""
    return _seen(e, context, _row(e, context, heads))


def judged(e: Emitter, context: MapContext, heads: int) -> str:
    """(B, K) bool, by rule 2."""
    visible = seen(e, context, heads)
    valid = context.valid
    if valid is None:
        ones = e.ones(1, e.dims(context.map, 3))
        count = e.op("CumSum", ones, e.constant(1, np.int64))
    else:
        count = counted(e, valid)
    return e.op("And", visible, e.op("Greater", count, e.constant(1.5)), role="judged")


def _of_seeing_rows(e: Emitter, context: MapContext) -> tuple[str, str]:
    """Mean and maximum, (B, H, K) each; 0 where no row sees a column."""
    sees = e.number(e.op("Greater", context.head_mean(e), e.constant(VISIBLE)))
    valid = context.valid_float(e)
    if valid is not None:
        first = e.op("Sub", e.dims(context.map, 3), e.dims(context.map, 2, 3))  # tokens of the past have no rows
        of_rows = e.op("Slice", valid, first, e.constant([np.iinfo(np.int64).max], np.int64), e.constant([1], np.int64))
        sees = e.op("Mul", e.op("Mul", sees, e.unsqueeze(valid, 1)), e.unsqueeze(of_rows, 2))
    columns = e.unsqueeze(e.reduce("Sum", sees, 2), 1)
    relative = e.op("Mul", context.map, columns, role="relative_map")
    mean = e.op("Div", e.reduce("Sum", relative, 2, keepdims=False), e.at_least(e.reduce("Sum", sees, 1), 1.0))
    return mean, e.reduce("Max", relative, 2, keepdims=False)


def _row(e: Emitter, context: MapContext, heads: int) -> str:
    """The answer row, (B, H, K)."""
    if context.answer_row is not None and not context.map:
        emit = context.answer_row
        return e.once(f"answer row:{e.site}", lambda: e.squeeze(emit(e), 2))

    def picked() -> str:
        valid, whole = context.valid, context.map
        rows = None if valid is None else answer_rows(e, valid, e.dims(whole, 2, 3), e.dims(whole, 3))
        return e.squeeze(pick_row(e, whole, rows, 2, heads), 2)

    return e.once(f"answer row:{context.map}", picked)


def _seen(e: Emitter, context: MapContext, row: str) -> str:
    def emit() -> str:
        visible = e.op("Greater", e.reduce("Mean", row, 1, keepdims=False), e.constant(VISIBLE), role="seen")
        return visible if context.valid is None else e.op("And", visible, context.valid)

    return e.once(f"seen:{row}", emit)
