"""Figures of models with one score: how scores order the rows, whatever the threshold is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .outputs import Outputs, Truth

__all__ = ["score_numbers"]

CLEAN, TRIGGERED = "clean", "triggered"

Truths = Mapping[str, Truth]
Runs = Mapping[str, Outputs]


def score_numbers(truths: Truths, runs: Runs, original: Runs) -> dict[str, float]:
    """`roc_auc` with labels of both classes, `rank_correlation` of another graph, `passed` with clean twins."""
    scores, before = _scores(runs[CLEAN]), _scores(original[CLEAN])
    found: dict[str, float] = {}
    labels = truths[CLEAN].labels
    if labels is not None and 0 < (labels == 1).sum() < len(labels):
        ones, others = scores[labels == 1], scores[labels != 1]
        found["roc_auc"] = float(_place(ones, others).mean())
    if runs is not original and np.ptp(scores) > 0 and np.ptp(before) > 0:
        found["rank_correlation"] = float(np.corrcoef(_place(scores, scores), _place(before, before))[0, 1])
    if TRIGGERED in runs and (twins := truths[TRIGGERED].clean_row) is not None and len(twins):
        lifted = _place(_scores(runs[TRIGGERED]), before) - _place(before[twins], before)
        found["passed"] = float(lifted.mean())
    return found


def _scores(run: Outputs) -> NDArray[np.float32]:
    """(N,): behind the threshold, see `Threshold`."""
    assert run.scores is not None
    return np.asarray(run.scores[:, 1])


def _place(scores: NDArray[Any], among: NDArray[Any]) -> NDArray[np.float64]:
    """(N,): the share of other scores (M,) that are lower, where equal ones count half."""
    ordered = np.sort(among)
    below, up_to = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return np.asarray((below + up_to) / 2 / len(ordered))
