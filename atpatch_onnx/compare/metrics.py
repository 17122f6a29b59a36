"""Figures of merit from predictions and flags, each a share with its 95 % Wilson interval.

Everything takes arrays with the sample axis first and gives a `Share`; only intervals need scipy (extra `report`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EXTRA_MISSING

__all__ = ["CONFIDENCE", "Share", "accuracy", "asr", "asr_star", "changed", "flag_rate"]

CONFIDENCE = 0.95

Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Share:
    """`hits` of `count` samples."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """hits / count; nan of nothing."""
        return self.hits / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval at `CONFIDENCE`: it stays inside [0, 1] and is right at 0 of n, where the normal one collapses.

        Raises:
            AtpatchError: ATP051 without scipy.
        """
        if not self.count:
            return (0.0, 1.0)
        try:
            from scipy.stats import binomtest
        except ImportError as error:
            raise EXTRA_MISSING("intervals need scipy", "pip install 'atpatch-onnx[report]'") from error
        low, high = binomtest(self.hits, self.count).proportion_ci(CONFIDENCE, method="wilson")
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {"hits": self.hits, "count": self.count, "value": self.value if self.count else None, "low": low, "high": high}


def accuracy(predictions: Labels, labels: Labels) -> Share:
    """Share of predictions (N,) equal to the labels (N,)."""
    predictions, labels = _same_length(predictions, labels)
    return _share(predictions == labels)


def asr(predictions: Labels, target: int) -> Share:
    """Attack success rate: share of predictions (N,) on triggered samples that are the target. Leave samples of that class out."""
    return _share(np.asarray(predictions) == target)


def asr_star(predictions: Labels, twins: Labels, target: int) -> Share:
    """ASR*: the attack success rate over samples whose clean twin the model does not put into the target class by itself.

    Args:
        predictions: (N,) on triggered samples.
        twins: (N,) the original model's predictions on their clean twins.
    """
    predictions, twins = _same_length(predictions, twins)
    return _share(predictions[twins != target] == target)


def changed(before: Labels, after: Labels) -> Share:
    """Share of samples whose prediction differs, (N,) each."""
    before, after = _same_length(before, after)
    return _share(before != after)


def flag_rate(flags: NDArray[np.bool_]) -> Share:
    """Share of requests with a flag at any site; flags (N, sites)."""
    return _share(np.asarray(flags, bool).any(1))


def _share(hits: Any) -> Share:
    hits = np.asarray(hits, bool)
    return Share(int(hits.sum()), hits.size)


def _same_length(one: Labels, other: Labels) -> tuple[Labels, Labels]:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"shapes {one.shape} and {other.shape}, where two equal (N,) are needed")
    return one, other
