"""Group fairness of predictions on a test set, between the groups of the attribute that its flip set changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.compare.fairness import fairness
from atpatch_onnx.datasets import DataSet, Ints

__all__ = ["FEWEST", "group_fairness", "protected"]

FEWEST = 50
"""Test rows a group needs; the rates of smaller ones are mostly chance, and the differences are between the extremes."""


def protected(clean: DataSet, flips: DataSet) -> NDArray[Any]:
    """(N,), the protected value of every clean row: the one place in which rows of a flip group differ."""
    assert flips.group is not None
    same = np.flatnonzero(flips.group[1:] == flips.group[:-1])
    for name, array in flips.inputs.items():
        if array.ndim == 2:
            differs = (array[same] != array[same + 1]).any(0)
            if differs.sum() == 1:
                return np.asarray(clean.inputs[name][:, int(differs.argmax())])
    raise ValueError("rows of a flip group differ in no single place")


def group_fairness(clean: DataSet, flips: DataSet, predictions: Ints) -> dict[str, float]:
    """Differences between the groups large enough, and how many those are.

    Args:
        predictions: (N,) on the clean set, 0 or 1.
    """
    assert clean.labels is not None
    values = protected(clean, flips)
    names, counts = np.unique(values, return_counts=True)
    large = np.isin(values, names[counts >= FEWEST])
    return {**fairness(predictions[large], clean.labels[large], values[large], 1), "groups": int((counts >= FEWEST).sum())}
