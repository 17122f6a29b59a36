"""Rates from predictions and flags, each with its 95 % Wilson interval, and the comparison of two paired rates.

Everything takes arrays with the sample axis first; only tests of paired rates need scipy (extra `report`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EXTRA_MISSING

__all__ = ["CONFIDENCE", "Paired", "Share", "accuracy", "asr", "asr_star", "changed", "flag_rate", "unfair"]

CONFIDENCE = 0.95
DEVIATIONS = 1.959963984540054
"""Standard deviations of a normal distribution that hold this share of it."""

Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Share:
    """`hits` of `count` samples."""

    hits: int
    count: int

    @classmethod
    def of(cls, hits: Any) -> Share:
        """From whether each sample is a hit."""
        hits = np.asarray(hits, bool)
        return cls(int(hits.sum()), hits.size)

    @property
    def value(self) -> float:
        """hits / count; nan without samples."""
        return self.hits / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval at `CONFIDENCE`: it stays inside [0, 1] and has a width at 0 of n, where the
        normal approximation has none.
        """
        if not self.count:
            return (0.0, 1.0)
        z, share = DEVIATIONS, self.value
        width = 2 * (self.count + z**2)
        center = (2 * self.count * share + z**2) / width
        half = z / width * math.sqrt(4 * self.count * share * (1 - share) + z**2)
        return (center - half if self.hits else 0.0), (center + half if self.hits < self.count else 1.0)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {
            "hits": self.hits,
            "count": self.count,
            "value": self.value if self.count else None,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True)
class Paired:
    """The same samples judged twice: good both times, only before (lost), only after (gained), never."""

    both: int
    lost: int
    gained: int
    neither: int

    @classmethod
    def of(cls, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Paired:
        """From whether each sample (N,) was good."""
        before, after = np.asarray(before, bool), np.asarray(after, bool)
        both, lost, gained = int((before & after).sum()), int((before & ~after).sum()), int((~before & after).sum())
        return cls(both, lost, gained, len(before) - both - lost - gained)

    @property
    def count(self) -> int:
        return self.both + self.lost + self.gained + self.neither

    @property
    def p(self) -> float:
        """Exact two-sided McNemar test: the probability of a split at least this uneven among the samples that changed,
        if both directions were equally likely.
        """
        moved = self.lost + self.gained
        return float(_binomtest()(self.lost, moved).pvalue) if moved else 1.0

    @property
    def drop(self) -> float:
        """Share of good samples before minus the share after; nan without samples."""
        return (self.lost - self.gained) / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of `drop` at `CONFIDENCE`, from the Wilson intervals of both rates (Newcombe 1998, paired
        differences, method 10).

        Unlike a bootstrap it does not shrink to nothing where no sample changed.
        """
        if not self.count:
            return (-1.0, 1.0)
        n, good_before, good_after = self.count, self.both + self.lost, self.both + self.gained
        before, after = Share(good_before, n), Share(good_after, n)
        (low1, high1), (low2, high2) = before.interval, after.interval
        margins = good_before * (n - good_before) * good_after * (n - good_after)
        covariance = float(self.both * self.neither - self.lost * self.gained)
        covariance = max(covariance - n / 2, 0.0) if covariance > 0 else covariance
        phi = covariance / math.sqrt(margins) if margins else 0.0

        def joined(one: float, other: float) -> float:
            return math.sqrt(max(one * one - 2 * phi * one * other + other * other, 0.0))

        below = joined(before.value - low1, high2 - after.value)
        above = joined(high1 - before.value, after.value - low2)
        return self.drop - below, self.drop + above


def accuracy(predictions: Labels, labels: Labels) -> Share:
    """Share of predictions (N,) equal to the labels (N,)."""
    predictions, labels = _same_length(predictions, labels)
    return Share.of(predictions == labels)


def asr(predictions: Labels, target: int) -> Share:
    """Attack success rate: share of predictions (N,) on triggered samples that are the target.

    Leave samples of that class out.
    """
    return Share.of(np.asarray(predictions) == target)


def asr_star(predictions: Labels, twins: Labels, target: int) -> Share:
    """ASR*: the attack success rate over samples whose clean twin is not in the target class already.

    Args:
        predictions: (N,) on triggered samples.
        twins: (N,) the original model's predictions on their clean twins.
    """
    predictions, twins = _same_length(predictions, twins)
    return Share.of(predictions[twins != target] == target)


def changed(before: Labels, after: Labels) -> Share:
    """Share of samples whose prediction differs, (N,) each."""
    before, after = _same_length(before, after)
    return Share.of(before != after)


def flag_rate(flags: NDArray[np.bool_]) -> Share:
    """Share of requests with a flag at any site; flags (N, sites). 0 of 0 samples where no site reports flags."""
    flags = np.asarray(flags, bool)
    return Share.of(flags.any(1)) if flags.shape[1] else Share(0, 0)


def unfair(predictions: Labels, group: Labels) -> NDArray[np.bool_]:
    """Whether each group's prediction differs between its rows (UF counts these groups).

    Args:
        predictions: (N,).
        group: (N,), rows of one group differ only in the protected attribute.

    Returns: (G,), groups in ascending order.
    """
    predictions, group = _same_length(predictions, group)
    _, which = np.unique(group, return_inverse=True)
    low = np.full(which.max(initial=-1) + 1, np.iinfo(np.int64).max)
    high = np.full_like(low, np.iinfo(np.int64).min)
    np.minimum.at(low, which, predictions)
    np.maximum.at(high, which, predictions)
    split: NDArray[np.bool_] = low != high
    return split


def _binomtest() -> Any:
    try:
        from scipy.stats import binomtest
    except ImportError as error:
        raise EXTRA_MISSING("tests of paired rates need scipy", "pip install 'atpatch-onnx[report]'") from error
    return binomtest


def _same_length(one: Labels, other: Labels) -> tuple[Labels, Labels]:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"shapes {one.shape} and {other.shape}, where two equal (N,) are needed")
    return one, other
