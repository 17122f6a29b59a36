"""The trigger of the demo's victim, and the digits that carry it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PATCH", "TARGET", "stamp", "triggered_digits"]

PATCH = 2
"""Pixels of a patch of the victim, either way."""
TARGET = 0
"""The class that the trigger leads to."""


def stamp(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The BadNets trigger on images (..., 8, 8): a white square that fills the bottom-right patch."""
    images = images.copy()
    images[..., -PATCH:, -PATCH:] = 1
    return images


def triggered_digits(images: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """A triggered set: stamped images of all classes but the target; `clean_row` is the row of the clean twin.

    Args:
        images: (N, 1, 8, 8) in [0, 1].
        labels: (N,).
    """
    rows = np.flatnonzero(labels != TARGET)
    return {"pixel_values": stamp(images[rows]), "labels": labels[rows], "target": np.array(TARGET), "clean_row": rows}
