"""Features of the answer row, where a decoder's answer is read (see `plan.Profile`).

1. A column's feature is its entry in each head × the number of columns that the row sees, log1p.
2. Judged are the valid columns that the row sees, but not the first valid one: it is an attention sink in every
   request. All others score -inf.
3. Where sites add up their scores, a column that the row does not see, as in front of a sliding window, adds nothing:
   other sites may see it. One that no site sees scores -inf.
"""

from __future__ import annotations

import numpy as np

from ...emit import Emitter
from ...lowering.answer_row import answer_rows, counted, pick_row
from ..context import VISIBLE, MapContext

__all__ = ["answer_features", "judged", "only_judged", "seen"]


def answer_features(e: Emitter, context: MapContext, heads: int, together: str | None = None) -> str:
    """(B, H, K). together: (B, K, K), see `profile.column_features`."""
    row = _row(e, context, heads)
    count = e.unsqueeze(e.reduce("Sum", e.number(_seen(e, context, row)), 1), 2)
    relative = e.op("Mul", row, count)
    if together is not None:
        relative = e.op("MatMul", relative, together, role="summed_attention")
    return e.op("Log", e.op("Add", relative, e.constant(1.0)), role="features")


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
