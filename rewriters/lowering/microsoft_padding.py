"""Which columns an operator of `com.microsoft` may see: padding masks of every form.

Shape letters as in `microsoft_scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..emit import Emitter
from .microsoft_parts import columns_of, part

__all__ = ["Padding", "all_columns", "padding_of", "valid_of"]


@dataclass(frozen=True)
class Padding:
    """The columns that a padding mask keeps: bool (B, T), or (B, S, T) where rows differ."""

    kept: str
    rows_differ: bool

    def bias(self, e: Emitter, value: float) -> str:
        """The bias for the scores: 0 at kept columns, else `value`, in the shape of `kept`."""
        return e.op("Where", self.kept, e.constant(0.0), e.constant(value), role="padding")


def padding_of(
    e: Emitter,
    mask: str,
    rank: int,
    sizes: Callable[[Emitter], tuple[str, str]],
    size: tuple[int | str, int | str] | None = None,
) -> Padding:
    """A padding mask of any form, int32.

    1. Rank 1: the number of columns kept (B); followed by the first one kept (2B); or by cumulative lengths (3B + 2),
       which add no information.
    2. Rank 2: above 0 is kept; a mask of width 1 masks nothing.
    3. Rank 3: above 0 is kept.

    Args:
        sizes: emits B and T as 1-D int64 values.
        size: the same where they are known (`Site.size`); then sites that share the mask and its size share the result.
    """
    if rank == 3:
        return Padding(e.op("Greater", mask, e.constant(0, np.int32)), True)
    make = _kept_by_width if rank == 2 else _kept_by_lengths

    def kept(body: Emitter) -> str:
        return make(body, mask, *sizes(body))

    return Padding(kept(e) if size is None else e.shared(f"kept:{mask}:{size}", kept), False)


def _kept_by_width(e: Emitter, mask: str, batch: str, columns: str) -> str:
    """Rule 2, (B, T)."""

    def kept(body: Emitter) -> str:
        wide = body.op("Equal", body.dims(mask, 1, 2), body.constant([1], np.int64))
        return body.op("Or", body.op("Greater", mask, body.constant(0, np.int32)), wide)

    return e.op("Expand", e.shared(f"kept:{mask}", kept), e.shape(batch, columns), role="kept")


def _kept_by_lengths(e: Emitter, mask: str, batch: str, columns: str) -> str:
    """Rule 1, (B, T)."""
    index = e.cast(mask, TensorProto.INT64)
    at = e.unsqueeze(columns_of(e, columns), 0)
    end = e.unsqueeze(part(e, index, 0, 0, batch), 1)
    # With lengths only, there is no second part to slice. So zeros are appended, and a comparison decides whether the
    # second part counts.
    twice = e.op("Add", batch, batch)
    padded = e.op("Concat", index, e.op("Expand", e.constant([0], np.int64), batch), axis=0)
    counts = e.cast(e.op("Equal", e.dims(mask, 0, 1), twice), TensorProto.INT64)
    start = e.unsqueeze(e.op("Mul", part(e, padded, 0, batch, twice), counts), 1)
    return e.op("And", e.op("Less", at, end), e.op("Not", e.op("Less", at, start)), role="kept")


def valid_of(e: Emitter, padding: Padding | None, attention_bias: str | None, batch: str, columns: str) -> str | None:
    """(B, T) bool, the columns that are real in all rows; None when only the map shows them.

    Without a mask all columns are real. A bias, or a mask that differs by rows, may hide padding.

    Args:
        batch, columns: B and T as 1-D int64 values.
    """
    if padding is not None:
        return None if padding.rows_differ else padding.kept
    if attention_bias is not None:
        return None
    return all_columns(e, batch, columns)


def all_columns(e: Emitter, batch: str, columns: str) -> str:
    """(B, T) bool, all True."""
    return e.op("Expand", e.constant([[True]], np.bool_), e.shape(batch, columns), role="valid")
