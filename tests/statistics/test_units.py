"""Intervals and paired tests against published figures, and the bootstrap over units by its coverage."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from atpatch_onnx.statistics.units import difference, holm, mcnemar, rate


def singles(hits: int, count: int) -> Counter[tuple[int, int]]:
    return Counter({(1, 1): hits, (0, 1): count - hits})


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((0, 10), (0, 20), -0.1611, 0.2775),
    ],
)
def test_newcombe(ours, theirs, low, high):
    found = difference(singles(*ours), singles(*theirs))
    assert found.method == "newcombe"
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_wilson_for_single_requests():
    found = rate(singles(15, 148))
    assert found.method == "wilson"
    assert (found.low, found.high) == pytest.approx((0.0624, 0.1605), abs=1e-4)  # Newcombe 1998, one proportion


def units(random: np.random.Generator, count: int, mean: float) -> Counter[tuple[int, int]]:
    own = random.beta(mean * 2, (1 - mean) * 2, count)
    requests = random.integers(1, 12, count)
    return Counter(zip(random.binomial(requests, own).tolist(), requests.tolist(), strict=True))


def as_draws(arm: Counter[tuple[int, int]]) -> Counter[tuple[int, int]]:
    """Every request a unit of its own."""
    return singles(
        sum(hits * size for (hits, _), size in arm.items()), sum(count * size for (_, count), size in arm.items())
    )


def test_bootstrap_over_units_covers_where_requests_as_draws_do_not():
    random = np.random.default_rng(2)
    covered = naive = 0
    for _ in range(100):
        ours, theirs = units(random, 80, 0.2), units(random, 80, 0.3)
        found = difference(ours, theirs)
        assert found.method == "bootstrap"
        covered += found.low <= -0.1 <= found.high
        flat = difference(*map(as_draws, (ours, theirs)))
        naive += flat.low <= -0.1 <= flat.high
    assert covered >= 90
    assert naive <= 75


def test_no_hit_among_few_units_is_not_certainty():
    found = rate({(0, 50): 20})
    assert found.low == 0
    assert found.high == pytest.approx(0.1611, abs=1e-4)  # Wilson, 0 of 20 units, not of 1,000 requests
    assert difference({(0, 50): 20}, {(0, 50): 20}).high > 0.1


def test_empty_arms():
    assert difference({}, singles(1, 2)) is None
    assert rate({(0, 0): 3}).share.count == 0


def test_mcnemar_is_exact():
    assert mcnemar(0, 0).p_value == 1
    assert mcnemar(10, 0).p_value == pytest.approx(2 / 1024)
    assert mcnemar(7, 1).p_value == pytest.approx(18 / 256)


def test_holm():
    """Rows out of order, a tie of adjusted values, and some that would exceed 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
