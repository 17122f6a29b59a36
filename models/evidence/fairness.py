"""Predictions and the attribute that a flip set changes: differences between its groups, and answers of a model that
does not know it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.comparison.fairness import fairness
from atpatch_onnx.inference.datasets import DataSet, Ints

__all__ = ["FEWEST", "group_fairness", "place", "protected", "unaware"]

FEWEST = 50
"""Test rows a group needs; the rates of smaller ones are mostly chance, and the differences are between the extremes.
"""


def place(flips: DataSet) -> tuple[str, int]:
    """Input and index of the one place in which rows of a flip group differ."""
    assert flips.group is not None
    same = np.flatnonzero(flips.group[1:] == flips.group[:-1])
    for name, array in flips.inputs.items():
        if array.ndim == 2:
            differs = (array[same] != array[same + 1]).any(0)
            if differs.sum() == 1:
                return name, int(differs.argmax())
    raise ValueError("rows of a flip group differ in no single place")


def protected(data: DataSet, flips: DataSet) -> NDArray[Any]:
    """(N,), the protected value of every row of a set: the one place in which rows of a flip group differ."""
    name, column = place(flips)
    return np.asarray(data.inputs[name][:, column])


def unaware(known: DataSet, flips: DataSet, scores: NDArray[np.floating[Any]]) -> Ints:
    """Predictions (N,) on a clean set without its protected values: a sample's probabilities averaged over all of them,
    by frequency.

    Args:
        known: rows that say how frequent each value is.
        flips: groups are numbered as the rows of the clean set.
        scores: (M, C) on the flip set.
    """
    from scipy.special import softmax

    assert flips.group is not None
    values, counts = np.unique(protected(known, flips), return_counts=True)
    own = protected(flips, flips)
    nearest = np.minimum(np.searchsorted(values, own), len(values) - 1)
    weight = np.where(values[nearest] == own, counts[nearest], 0)
    mean = np.zeros((int(flips.group.max()) + 1, scores.shape[1]))
    np.add.at(mean, flips.group, weight[:, None] * softmax(scores, axis=1))
    return np.asarray(mean.argmax(1), np.int64)


def group_fairness(clean: DataSet, flips: DataSet, predictions: Ints) -> dict[str, float]:
    """Differences between the groups large enough, and how many those are.

    Args:
        predictions: (N,) on the clean set, 0 or 1.
    """
    assert clean.labels is not None
    values = protected(clean, flips)
    names, counts = np.unique(values, return_counts=True)
    large = np.isin(values, names[counts >= FEWEST])
    return {
        **fairness(predictions[large], clean.labels[large], values[large], 1),
        "groups": int((counts >= FEWEST).sum()),
    }
