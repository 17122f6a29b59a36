"""One data set from rows that may differ in length.

1. Texts (inputs as wide as the padding mask) are padded with zeros to the longest row; the mask leaves that out.
2. Without a mask, and for other inputs, the rows must have one shape. The most frequent shape is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DATA_MALFORMED
from ...inference.datasets import Arrays
from ...inference.padding import MASK
from .collector import Row

__all__ = ["join_rows"]


def join_rows(rows: Sequence[Row], mask: str = MASK) -> tuple[Arrays, int]:
    """The rows as arrays (N, ...) by input name, and how many were left out.

    Args:
        mask: name of the input that is 0 at padding, if there is one.

    Raises:
        AtpatchError: ATP056 without a row.
    """
    kinds = Counter(_shape(row, mask) for row in rows)
    if not kinds:
        raise DATA_MALFORMED("there is no row to fit on")
    (kind, count), *_ = kinds.most_common(1)
    kept = [row for row in rows if _shape(row, mask) == kind]
    width = max((row[mask].shape[1] for row in kept if mask in row and row[mask].ndim == 2), default=0)
    names = list(kept[0])
    return {name: np.concatenate([_wide(row, name, mask, width) for row in kept]) for name in names}, len(rows) - count


def _shape(row: Row, mask: str) -> tuple[Any, ...]:
    """What rows of one data set have in common; -1 for the width of a text."""
    return tuple(
        (name, array.dtype.kind, -1 if _is_text(row, name, mask) else array.shape[1:]) for name, array in row.items()
    )


def _is_text(row: Row, name: str, mask: str) -> bool:
    array = row[name]
    return (
        mask in row
        and row[mask].ndim == 2
        and array.ndim == 2
        and array.shape == row[mask].shape
        and (array.dtype.kind in "iub" or name == mask)
    )


def _wide(row: Row, name: str, mask: str, width: int) -> NDArray[Any]:
    array = row[name]
    if array.dtype.kind == "O":
        return array.astype(str)
    return np.pad(array, ((0, 0), (0, width - array.shape[1]))) if _is_text(row, name, mask) else array
