"""Where the answer row of a map is, and how one row of each sample is taken out of a tensor.

The answer row is the last row whose token is valid (see `plan.Profile`). Row i of Q belongs to column K - Q + i, since
tokens of the past have no rows. In a sample without a valid new token it is the first row.
"""

from __future__ import annotations

import numpy as np

from ..emit import BATCH_DIMS_FROM, Emitter

__all__ = ["answer_rows", "counted", "pick_row"]


def counted(e: Emitter, valid: str) -> str:
    """(B, K) float32: how many of the columns up to this one are valid; valid: (B, K) bool."""
    numbers = e.once(f"float:{valid}", lambda: e.number(valid))
    return e.once(f"counted:{valid}", lambda: e.op("CumSum", numbers, e.constant(1, np.int64), role="counted"))


def answer_rows(e: Emitter, valid: str, rows: str, columns: str) -> str:
    """Number of the answer row of each sample, (B,) int64.

    Args:
        valid: (B, K) bool.
        rows, columns: Q and K as 1-D int64 values.
    """
    # The count is highest at the last valid column, and stays so behind it.
    count = counted(e, valid)
    last = e.once(f"last valid:{valid}", lambda: e.op("ArgMax", count, axis=1, keepdims=0, role="last_valid"))
    row, first = e.op("Sub", last, e.op("Sub", columns, rows)), e.constant([0], np.int64)
    return e.op("Where", e.op("Less", row, first), first, row, role="answer_rows")


def pick_row(e: Emitter, x: str, rows: str | None, axis: int, heads: int | None = None) -> str:
    """One row of each sample: x (B, ..., S, ...), its axis `axis` cut to 1.

    Args:
        rows: (B,) int64; None: the last row.
        axis: 1, or 2 behind an axis of heads.
        heads: size of axis 1 where it is known, if `axis` is 2.
    """
    if rows is None:
        bounds = [e.constant([number], np.int64) for number in (-1, np.iinfo(np.int64).max, axis)]
        return e.op("Slice", x, *bounds, role="last_row")
    if e.opset < BATCH_DIMS_FROM:
        index = e.reshape(rows, -1, *[1] * axis)
        whole = e.op("Expand", index, e.shape(e.dims(x, 0, axis), 1)) if axis > 1 else index
        # Behind the axis of rows everything is one width, so that the index has one axis for it.
        flat = e.reshape(x, e.dims(x, 0, axis + 1), -1)
        wide = e.op("Expand", e.unsqueeze(whole, axis + 1), e.shape(*[1] * (axis + 1), e.dims(flat, axis + 1)))
        return e.op("GatherElements", flat, wide, axis=axis, role="picked_row")
    index = e.reshape(rows, -1, *[1] * (axis + 1))
    if axis > 1:
        index = e.op("Expand", index, e.shape(1, heads if heads is not None else e.dims(x, 1, 2), 1, 1))
    return e.op("GatherND", x, index, batch_dims=axis, role="picked_row")
