"""Intervals over runs and requests: against other ways to compute them, and how often they hold a known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, binomtest, norm, t

from atpatch_onnx.statistics.proportions import Share
from models.evidence.estimates import OVERLAPS, Estimate, combined, of_numbers, of_settings, of_shares

Interval = tuple[float, float]
REQUESTS = 900


def share(hits: float, count: int = REQUESTS) -> dict[str, Any]:
    return {"value": hits / count, "count": count}


def ends(estimate: Estimate | None) -> Interval:
    assert estimate is not None
    return estimate.low, estimate.high


def test_of_numbers_it_is_students_interval() -> None:
    assert ends(of_numbers([0.1, 0.2, 0.3])) == pytest.approx((0.2 - 0.24841, 0.2 + 0.24841), abs=1e-4)


@pytest.mark.parametrize("hits", [0, 1, 7, 450, 899, 900])
def test_of_one_run_it_is_the_exact_binomial_one(hits: int) -> None:
    exact = binomtest(hits, REQUESTS).proportion_ci(0.95, "exact")
    assert ends(of_shares([share(hits)])) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_runs_that_agree_are_no_surer_than_one_test_set() -> None:
    """Rule of three: none of 1,000 is not 0, however often it is none."""
    low, high = ends(of_shares([share(0, 1000)] * 3))
    assert low == 0 and 3 / 1000 < high < 4 / 1000
    assert ends(of_shares([share(20)] * 3)) == pytest.approx(ends(of_shares([share(20)])), abs=1e-9)


@pytest.mark.parametrize(("shared", "times"), [(0, 3), (0.25, 2), (1, 1)])
def test_runs_that_agree_are_as_sure_as_their_different_requests(shared: float, times: float) -> None:
    """Three test sets that share a quarter two by two, each another one: clusters of one and two, 3²/(3 + 6/4) sets."""
    one = of_settings([overlapping([20] * 3, shared)])
    hits, count = 20 * times, REQUESTS * times
    expected = beta.ppf(0.025, hits, count - hits + 1), beta.ppf(0.975, hits + 1, count - hits)
    assert ends(one) == pytest.approx(expected, abs=1e-9)


def test_clusters_are_counted_as_if_one_by_one() -> None:
    """Variance of the mean over runs, of requests that fail in all runs that have them or in none."""
    random = np.random.default_rng(0)
    sets = [random.choice(1000, size, replace=False) for size in (100, 300, 500)]
    weight = np.zeros(1000)
    for rows in sets:
        weight[rows] += 1 / (3 * len(rows))
    count = 1 / np.square(weight).sum()
    # A share of the smaller set is another one of the larger: the mean of both, as the root of their product.
    overlaps = {
        i: {j: len(np.intersect1d(a, b)) / np.sqrt(len(a) * len(b)) for j, b in enumerate(sets)}
        for i, a in enumerate(sets)
    }
    runs = {i: {**share(0.1 * len(a), len(a)), OVERLAPS: overlaps[i]} for i, a in enumerate(sets)}
    low, high = ends(of_settings([runs]))
    hits = 0.1 * count
    expected = beta.ppf(0.025, hits, count - hits + 1), beta.ppf(0.975, hits + 1, count - hits)
    assert (low, high) == pytest.approx(expected, abs=1e-9)


def test_runs_that_differ_leave_fewer_effective_requests() -> None:
    """Korn and Graubard's interval, where test sets are too large to matter."""
    values = np.array([0.1, 0.2, 0.3])
    count = 0.2 * 0.8 / (values.var(ddof=1) / 3) * (norm.ppf(0.975) / t.ppf(0.975, 2)) ** 2
    hits = 0.2 * count
    expected = beta.ppf(0.025, hits, count - hits + 1), beta.ppf(0.975, hits + 1, count - hits)
    assert ends(of_shares([share(value * 10**6, 10**6) for value in values])) == pytest.approx(expected, abs=1e-9)


def test_a_mean_of_settings_with_the_same_requests_is_judged_by_the_means_of_runs() -> None:
    one, other = [10, 20, 30], [30, 40, 20]
    both = of_settings([{seed: share(hits) for seed, hits in enumerate(setting)} for setting in (one, other)])
    assert both is not None and both.mean == pytest.approx(25 / REQUESTS) and both.seeds == 3
    assert ends(both) == pytest.approx(ends(of_shares([share(hits) for hits in (20, 30, 25)])), abs=1e-9)


def test_of_the_same_requests_a_difference_has_its_own_spread() -> None:
    """Lost and gained rise and fall together, so that their difference is the same in all runs."""
    lost, gained = ([{seed: share(hits + more) for seed, hits in enumerate((10, 40, 70))}] for more in (5, 0))
    found = of_settings(lost, less=gained)
    assert found is not None and found.mean == pytest.approx(5 / REQUESTS)
    apart = [
        Estimate(one.mean, one.low, one.high, 3) for one in (of_shares([share(45)]), of_shares([share(40)])) if one
    ]
    assert ends(found) == pytest.approx(ends(combined([(1, apart[0]), (-1, apart[1])])), abs=1e-9)
    nothing = of_settings([{0: share(0, 1000)}], less=[{0: share(0, 1000)}])
    assert nothing is not None and -0.004 < nothing.low < -0.003 < 0.003 < nothing.high < 0.004


def test_distances_of_independent_parts_add_up_as_roots_of_squares() -> None:
    one, other = Estimate(0.1, 0.05, 0.2, 3), Estimate(0.4, 0.3, 0.5, 3)
    found = combined([(0.5, one), (-0.5, other)])
    below, above = np.hypot(0.05, 0.1) / 2, np.hypot(0.1, 0.1) / 2
    assert (found.mean, found.low, found.high) == pytest.approx((-0.15, -0.15 - below, -0.15 + above))


def test_nothing_measured_has_no_interval() -> None:
    assert of_shares([]) is None and of_shares([{"value": None, "count": 0}]) is None


# How often is the truth inside? Victims have rates of their own, around the true mean; a part of each test set is the
# same requests, of which those fail in every run that fail easily.


def failures(
    random: np.random.Generator, rate: float, spread: float, same: float, runs: int, times: int
) -> NDArray[np.int64]:
    """(times, runs), failed requests of a test set.

    Args:
        spread: standard deviation of the victims' rates by their mean.
        same: share of requests that all test sets have.
    """
    rates = np.full((times, runs), rate)
    if spread:
        total = (1 - rate) / (rate * spread**2) - 1
        rates = random.beta(rate * total, (1 - rate) * total, (times, runs))
    together = round(same * REQUESTS)
    difficulty = random.random((times, 1, together))
    found = (difficulty < rates[:, :, None]).sum(2) + random.binomial(REQUESTS - together, rates)
    return np.asarray(found, np.int64)


def overlapping(hits: Sequence[int], same: float) -> dict[int, dict[str, Any]]:
    """Runs of which any two have a part of their requests in common."""
    others = {seed: {other: 1.0 if seed == other else same for other in range(len(hits))} for seed in range(len(hits))}
    return {seed: {**share(one), OVERLAPS: others[seed]} for seed, one in enumerate(hits)}


@cache
def hierarchical(hits: tuple[int, ...], same: float) -> Interval:
    return ends(of_settings([overlapping(hits, same)]))


@cache
def the_wider_one(hits: tuple[int, ...]) -> Interval:
    """Of Student's interval over runs and Wilson's for one test set."""
    runs, mean = of_numbers([one / REQUESTS for one in hits]), np.mean(hits)
    low, _ = Share(int(np.floor(mean)), REQUESTS).interval
    _, high = Share(int(np.ceil(mean)), REQUESTS).interval
    return max(0.0, min(low, runs.low)), min(1.0, max(high, runs.high))


def covered(hits: NDArray[np.int64], truth: float, interval: Callable[[tuple[int, ...]], Interval]) -> float:
    found = [interval(tuple(sorted(one))) for one in hits.tolist()]
    return float(np.mean([low <= truth <= high for low, high in found]))


WORLDS = [
    *(
        (*world, same, 3)
        for world in ((0.0005, 1), (0.005, 1), (0.02, 0.3), (0.1, 1), (0.6, 0.3))
        for same in (0.25, 1)
    ),
    (0.005, 1, 1, 2),
    (0.02, 0.3, 0.25, 2),
]
TIMES = 300


@pytest.mark.parametrize(("rate", "spread", "same", "runs"), WORLDS)
def test_the_interval_of_one_setting_holds_the_truth(rate: float, spread: float, same: float, runs: int) -> None:
    """In 93 of 100 worlds or more; with 300 of them by chance in 90."""
    hits = failures(np.random.default_rng(0), rate, spread, same, runs, TIMES)
    assert covered(hits, rate, partial(hierarchical, same=same)) > 0.9


def test_the_wider_of_students_and_wilsons_interval_misses_too_often_where_victims_differ() -> None:
    hits = failures(np.random.default_rng(0), 0.1, 1, 0.25, 3, TIMES)
    assert covered(hits, 0.1, the_wider_one) < 0.89 < 0.91 < covered(hits, 0.1, partial(hierarchical, same=0.25))


@pytest.mark.parametrize("alike", [True, False], ids=["all settings fail alike", "each fails by itself"])
@pytest.mark.parametrize(("rate", "spread"), [(0.003, 0.5), (0.02, 0.3), (0.6, 0.3)])
def test_the_interval_of_a_mean_over_settings_holds_the_truth(rate: float, spread: float, alike: bool) -> None:
    """Three settings on one data set, one on another."""
    random = np.random.default_rng(0)

    def runs() -> NDArray[np.int64]:
        return failures(random, rate, spread, 0.25, 3, TIMES)

    first = runs()
    settings = [first, *(first if alike else runs() for _ in range(2))]
    other = runs()
    inside = 0
    for row in range(TIMES):
        one = of_settings([overlapping(setting[row], 0.25) for setting in settings])
        alone = of_shares([share(hits) for hits in other[row]])
        assert one is not None and alone is not None
        mean = combined([(0.75, one), (0.25, alone)])
        inside += mean.low <= rate <= mean.high
    assert inside / TIMES > 0.92


@pytest.mark.parametrize(("lost", "gained", "spread"), [(0.002, 0.001, 0), (0.02, 0.015, 0.5), (0.03, 0.03, 1)])
def test_the_interval_of_accuracy_lost_holds_the_truth(lost: float, gained: float, spread: float) -> None:
    """Of rows that are lost and gained independently of each other, in victims that differ."""
    random = np.random.default_rng(0)
    pairs = [failures(random, rate, spread, 0.25, 3, TIMES) for rate in (lost, gained)]
    inside = 0
    for row in range(TIMES):
        plus, less = ([overlapping(hits[row], 0.25)] for hits in pairs)
        low, high = ends(of_settings(plus, less=less))
        inside += low <= lost - gained <= high
    assert inside / TIMES > 0.92
