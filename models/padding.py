"""Rows of tokens as one batch, alike for all models of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["batch"]


def batch(
    rows: Sequence[Sequence[int] | NDArray[np.int64]], pad_id: int, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and attention_mask (B, K), padded to the longest."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros_like(ids)
    for line, real, row in zip(ids, mask, rows, strict=True):
        where = slice(longest - len(row), None) if left else slice(len(row))
        line[where] = torch.tensor(row)
        real[where] = 1
    return ids, mask
