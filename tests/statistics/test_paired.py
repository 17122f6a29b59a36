"""Paired statistics and unfair groups, against counts by hand and against what is published."""

from __future__ import annotations

import math

import numpy as np
import pytest

from atpatch_onnx.statistics.proportions import Paired, Share, unfair


def test_pairs_are_counted() -> None:
    before = np.array([True, True, True, False, False, False])
    after = np.array([True, False, False, True, False, False])
    pair = Paired.of(before, after)
    assert pair == Paired(both=1, lost=2, gained=1, neither=2)
    assert pair.count == 6
    assert pair.drop == pytest.approx(3 / 6 - 2 / 6)


@pytest.mark.parametrize(("lost", "gained"), [(0, 5), (3, 9), (10, 1), (4, 4)])
def test_mcnemar_is_the_two_sided_sign_test(lost: int, gained: int) -> None:
    moved = lost + gained
    tail = sum(math.comb(moved, k) for k in range(min(lost, gained) + 1)) / 2**moved
    assert Paired(50, lost, gained, 3).p == pytest.approx(min(1.0, 2 * tail))


def test_nothing_moved_tells_nothing() -> None:
    assert Paired(50, 0, 0, 3).p == 1
    assert Paired(0, 0, 0, 0).interval == (-1, 1)
    assert math.isnan(Paired(0, 0, 0, 0).drop)


def test_interval_is_the_published_one() -> None:
    """Airway hyper-responsiveness before and after stem cell transplantation (Bentur 2009), Newcombe's interval in
    Fagerland 2014.
    """
    pair = Paired(both=1, lost=1, gained=7, neither=12)
    assert pair.drop == pytest.approx(-0.286, abs=5e-4)
    assert pair.interval == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_interval_without_correlation_adds_the_squares_of_wilsons() -> None:
    pair = Paired(both=20, lost=20, gained=20, neither=20)
    low, high = Share(40, 80).interval
    assert pair.interval == pytest.approx((-math.hypot(0.5 - low, high - 0.5), math.hypot(high - 0.5, 0.5 - low)))


def test_interval_of_no_change_does_not_shrink_to_nothing() -> None:
    low, high = Paired(348, 0, 0, 12).interval
    assert -0.02 < low < -0.002
    assert high == pytest.approx(-low)


def test_interval_turns_round_with_the_pair() -> None:
    low, high = Paired(80, 12, 3, 5).interval
    assert Paired(80, 3, 12, 5).interval == pytest.approx((-high, -low))


@pytest.mark.parametrize("cells", [(0.85, 0.04, 0.01, 0.10), (0.5, 0.2, 0.1, 0.2), (0.95, 0.005, 0.02, 0.025)])
def test_interval_covers_the_truth_as_often_as_it_says(cells: tuple[float, ...]) -> None:
    truth = cells[1] - cells[2]
    draws = np.random.default_rng(0).multinomial(200, cells, 600)
    covered = np.mean([low <= truth <= high for low, high in (Paired(*map(int, draw)).interval for draw in draws)])
    assert 0.925 <= covered <= 0.995


def test_a_group_is_unfair_when_its_rows_disagree() -> None:
    group = np.array([7, 7, 2, 2, 2, 9])
    assert unfair(np.array([1, 1, 0, 3, 0, 5]), group).tolist() == [True, False, False]
    assert unfair(np.array([1, 0, 0, 0, 0, 5]), group).tolist() == [False, True, False]


def test_groups_need_a_row_each() -> None:
    with pytest.raises(ValueError, match=r"\(N,\)"):
        unfair(np.array([1, 0]), np.array([1]))
