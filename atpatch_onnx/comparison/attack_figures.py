"""Figures of the triggered rows: how many the attack sends to its target, and how many are predicted right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..inference.datasets import Ints
from ..statistics import proportions
from ..statistics.proportions import Share
from .outputs import Truth

__all__ = ["attack_shares", "open_rows"]

CLEAN, TRIGGERED = "clean", "triggered"

Truths = Mapping[str, Truth]


def attack_shares(
    truths: Truths, attacked: Ints, before: Ints, rows: NDArray[np.bool_] | None = None
) -> dict[str, Share]:
    """Of all triggered rows, or of some (N,)."""
    truth = truths[TRIGGERED]
    rows = np.ones(truth.count, bool) if rows is None else rows
    assert truth.target is not None
    labels = _triggered_labels(truths)
    others = rows if labels is None else rows & (labels != truth.target)
    shares = {"asr": proportions.asr(attacked[others], truth.target)}
    if truth.clean_row is not None:
        twins = before[truth.clean_row]
        shares["asr_star"] = proportions.asr_star(attacked[others], twins[others], truth.target)
    if labels is not None:
        shares["recovered"] = proportions.accuracy(attacked[rows], labels[rows])
    return shares


def open_rows(truths: Truths, before: Ints) -> NDArray[np.bool_]:
    """Triggered rows that only an attack sends to the target, as far as labels and twins show."""
    truth, labels = truths[TRIGGERED], _triggered_labels(truths)
    rows = np.ones(truth.count, bool) if labels is None else labels != truth.target
    return rows if truth.clean_row is None else rows & (before[truth.clean_row] != truth.target)


def _triggered_labels(truths: Truths) -> Ints | None:
    """Of the triggered rows themselves, else of their clean twins."""
    truth, labels = truths[TRIGGERED], truths[CLEAN].labels
    if truth.labels is not None or truth.clean_row is None or labels is None:
        return truth.labels
    return labels[truth.clean_row]
