"""Means and 95 % intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atpatch_onnx.statistics.proportions import CONFIDENCE, Share

__all__ = ["Estimate", "of_numbers", "of_shares"]


@dataclass(frozen=True)
class Estimate:
    """Mean of `seeds` runs, and its interval."""

    mean: float
    low: float
    high: float
    seeds: int

    def percent(self, digits: int = 2) -> str:
        """As the tables show it."""
        return f"{100 * self.mean:.{digits}f} ({100 * self.low:.{digits}f} to {100 * self.high:.{digits}f})"

    def plain(self, digits: int = 2) -> str:
        return f"{self.mean:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def of_numbers(values: Sequence[float]) -> Estimate:
    """Student's interval over runs; of one run, nothing but its own value."""
    from scipy.stats import sem, t

    mean = float(np.mean(values))
    spread = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * sem(values)) if len(values) > 1 else 0.0
    return Estimate(mean, mean - spread, mean + spread, len(values))


def of_shares(shares: Sequence[Any]) -> Estimate | None:
    """Of shares as `Share.to_json` gives them: the wider of the interval over runs and Wilson's for one test set.

    Three runs that agree say little about how rare a thing is: 0 of 900, thrice, is not known to be 0. Wilson's
    interval is that of one run's number of requests, since runs share test samples.
    """
    shares = [share for share in shares if share["value"] is not None]
    if not shares:
        return None
    runs = of_numbers([share["value"] for share in shares])
    count = min(share["count"] for share in shares)
    low, _ = Share(math.floor(runs.mean * count), count).interval
    _, high = Share(math.ceil(runs.mean * count), count).interval
    return Estimate(runs.mean, max(0.0, min(low, runs.low)), min(1.0, max(high, runs.high)), runs.seeds)
