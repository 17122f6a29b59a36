"""Saves computing padding at the end of texts: texts of similar length share a batch, cut to its longest text.

Otherwise padding may take half of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.sites import Site

from .datasets import DataSet, Ints

__all__ = ["MASK", "common_mask", "cut", "lengths", "of_one_width"]

MASK = "attention_mask"
"""The usual name of the mask in text models, for use where only the data is known."""


def common_mask(sites: Sequence[Site], data: DataSet) -> str | None:
    """The one graph input that is the padding mask of every site that has one; None where there is no such input."""
    masks = {site.key_mask for site in sites if site.key_mask is not None}
    if len(masks) != 1:
        return None
    (name,) = masks
    return name if name in data.inputs and data.inputs[name].ndim == 2 else None


def lengths(mask: NDArray[Any]) -> Ints:
    """(N,): the length of each row of a mask (N, K), up to its last column that is not padding; at least 1."""
    return np.asarray(np.max((mask != 0) * np.arange(1, mask.shape[1] + 1), axis=1, initial=1), np.int64)


def cut(feeds: Mapping[str, NDArray[Any]], mask: str, length: int) -> dict[str, NDArray[Any]]:
    """Feeds without the columns beyond `length`, in every input that is as wide as the mask."""
    width = feeds[mask].shape[1]
    return {
        name: array[:, :length] if array.ndim > 1 and array.shape[1] == width else array
        for name, array in feeds.items()
    }


def of_one_width(debug: DataSet, clean: DataSet) -> tuple[DataSet, DataSet]:
    """Two sets of texts, the shorter padded with zeros; other sets unchanged."""
    if any(MASK not in one.inputs or one.inputs[MASK].ndim != 2 for one in (debug, clean)):
        return debug, clean
    width = max(one.inputs[MASK].shape[1] for one in (debug, clean))

    def wide(array: NDArray[Any], own: int) -> NDArray[Any]:
        fits = array.ndim == 2 and array.shape[1] == own and array.dtype.kind in "iub"
        return np.pad(array, ((0, 0), (0, width - own))) if fits else array

    def filled(one: DataSet) -> DataSet:
        own = one.inputs[MASK].shape[1]
        columns = None if one.columns is None else wide(one.columns, own)
        return replace(one, inputs={name: wide(array, own) for name, array in one.inputs.items()}, columns=columns)

    return filled(debug), filled(clean)
