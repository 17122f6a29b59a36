"""Means and intervals over runs, where runs (victims, or fits of one victim) are the upper level and the requests of a
test set the lower one.

1. One share over runs: the exact binomial interval (Clopper and Pearson) for an *effective* number of requests, which
   the spread between runs makes smaller (Korn and Graubard, Survey Methodology 24, 1998: what R's `survey::svyciprop`
   calls "beta", with Student's degrees of freedom). It is never more than the requests of all runs, where those that
   several runs share count as `_different` says: as if a request failed in all of them or in none.
2. Settings that share their requests count as one: their mean is taken in each run, and 1. is asked of that.
3. Accuracy lost is a difference of two shares of the same requests, right before only and right after only. Both get
   the interval of 1., with the number of requests that the spread of their difference leaves, and go into 4.
4. Sums with weights, also differences: the distances from means to ends add up as roots of sums of
   squares (MOVER: Zou and Donner, Statistics in Medicine 27, 2008), which takes the parts to be independent.

In simulations with three runs and known truths the interval holds the truth in 93 to 100 of 100 worlds; the wider of
Student's interval over runs and Wilson's for one test set does so in 87 to 100 (tests/models/test_estimates.py). A
bootstrap over three runs has but ten different means, so it is no use here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atpatch_onnx.statistics.proportions import CONFIDENCE

__all__ = ["OVERLAPS", "Estimate", "combined", "of_numbers", "of_settings", "of_shares", "of_the_same"]

Share = Mapping[str, Any]
"""As `proportions.Share.to_json` gives it, and, where it is known, `OVERLAPS`."""

OVERLAPS = "overlaps"
"""Seed of another run → part of a share's requests that are requests of that run too; 1 where nothing is said."""


@dataclass(frozen=True)
class Estimate:
    """Mean of `seeds` runs, and its interval."""

    mean: float
    low: float
    high: float
    seeds: int

    def percent(self, digits: int = 2) -> str:
        """As the tables show it."""
        return f"{100 * self.mean:z.{digits}f} ({100 * self.low:z.{digits}f} to {100 * self.high:z.{digits}f})"

    def plain(self, digits: int = 2) -> str:
        return f"{self.mean:z.{digits}f} ({self.low:z.{digits}f} to {self.high:z.{digits}f})"


def of_numbers(values: Sequence[float]) -> Estimate:
    """Student's interval over runs; of one run, nothing but its own value."""
    from scipy.stats import sem, t

    mean = float(np.mean(values))
    spread = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * sem(values)) if len(values) > 1 else 0.0
    return Estimate(mean, mean - spread, mean + spread, len(values))


def of_the_same(share: Share, value: float) -> dict[str, Any]:
    """Another share of the same requests."""
    return {"value": value, **{name: share[name] for name in ("count", OVERLAPS) if name in share}}


def of_shares(shares: Sequence[Share], level: float = CONFIDENCE) -> Estimate | None:
    """Of one setting's shares, one a run."""
    return of_settings([dict(enumerate(shares))], level)


def of_settings(
    settings: Sequence[Mapping[int, Share]],
    level: float = CONFIDENCE,
    less: Sequence[Mapping[int, Share]] = (),
) -> Estimate | None:
    """Of the mean over settings that share their requests; None without any request.

    Args:
        settings: of each, seed of the run → share.
        less: as many, of events to be taken off; no request has both, and both shares are of the same requests.
    """
    kept = [{seed: one for seed, one in setting.items() if one["value"] is not None} for setting in settings]
    if not any(kept):
        return None
    taken = less or [{seed: {"value": 0.0} for seed in setting} for setting in kept]
    pairs = [
        {seed: (one["value"], off[seed]["value"]) for seed, one in setting.items()}
        for setting, off in zip(kept, taken, strict=True)
        if setting
    ]
    gain, loss = (float(np.mean([np.mean([pair[side] for pair in one.values()]) for one in pairs])) for side in (0, 1))
    seeds = sorted({seed for setting in pairs for seed in setting})
    runs = [float(np.mean([one[seed][0] - one[seed][1] for one in pairs if seed in one])) for seed in seeds]
    counts = {seed: min(setting[seed]["count"] for setting in kept if seed in setting) for seed in seeds}
    overlaps = {seed: one[OVERLAPS] for setting in kept for seed, one in setting.items() if OVERLAPS in one}
    requests = _different(counts, overlaps)
    count = _effective(gain + loss - (gain - loss) ** 2, runs, requests, level)
    parts = [(1, Estimate(gain, *_exact(gain, count, level), len(runs)))]
    if less:
        parts.append((-1, Estimate(loss, *_exact(loss, count, level), len(runs))))
    return combined(parts)


def combined(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """Of the sum of weight × mean; a difference has a negative weight."""
    mean = sum(weight * part.mean for weight, part in parts)
    below = math.hypot(*(weight * (part.mean - (part.low if weight > 0 else part.high)) for weight, part in parts))
    above = math.hypot(*(weight * (part.mean - (part.high if weight > 0 else part.low)) for weight, part in parts))
    return Estimate(mean, mean - below, mean + above, min(part.seeds for _, part in parts))


def _different(counts: Mapping[int, float], overlaps: Mapping[int, Mapping[int, float]]) -> float:
    """How many requests of one test set would be as sure of a mean over runs as their requests are, where a request
    fails in all runs that have it or in none (Kish, Survey Sampling, 1965: clusters).

    Args:
        counts: seed of a run → its requests.
        overlaps: seed of a run → as `OVERLAPS`.
    """
    total = sum(
        (1.0 if one == other else overlaps.get(one, {}).get(other, 1.0)) / math.sqrt(counts[one] * counts[other])
        for one in counts
        for other in counts
    )
    return len(counts) ** 2 / total


def _effective(variance: float, runs: Sequence[float], requests: float, level: float) -> float:
    """How many independent requests would be as sure of the mean as these runs are.

    Args:
        variance: of one request.
        runs: the share in each.
        requests: of all runs, see `_different`.
    """
    from scipy.stats import norm, t

    spread = float(np.var(runs, ddof=1)) / len(runs) if len(runs) > 1 else 0.0
    if spread < 1e-15:  # also where only rounding tells equal runs apart
        return requests
    tail = (1 + level) / 2
    fewer = float(norm.ppf(tail) / t.ppf(tail, len(runs) - 1)) ** 2
    return min(requests, fewer * variance / spread)


def _exact(share: float, count: float, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval, also of counts that are no whole numbers."""
    from scipy.stats import beta

    hits, tail = share * count, (1 - level) / 2
    low = float(beta.ppf(tail, hits, count - hits + 1)) if share > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, count - hits)) if share < 1 else 1.0
    return low, high
