"""Thresholds are read off logits, and compared with float32 scores in a graph."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx.fitting.calibration import Tail, thresholds


@pytest.mark.parametrize("logit", [-3.0, -0.5, 0.0, 0.25, 2.0, 7.0])
def test_a_threshold_lies_above_the_score_of_its_own_logit(logit: float) -> None:
    """The clean row that sets the lowest threshold is not flagged by it."""
    clean, anomalous = np.array([-9.0, logit]), np.array([logit + 5.0])
    lowest = np.float32(thresholds(clean, anomalous, 0.0)[0])
    score = np.float32(1 / (1 + np.exp(-np.float64(logit))))
    assert lowest > score
    assert lowest == np.nextafter(score, np.float32(2))


def logit_of(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def test_the_tail_keeps_the_share_on_further_rows_where_the_highest_row_does_not() -> None:
    """Two hundred scores are an exponential's; the level of half a percent is right in nine of ten draws or more."""
    generator, share = np.random.default_rng(0), 0.005
    exact = -np.log(share)
    drawn = generator.exponential(size=(400, 200))
    by_tail = np.array([Tail.of(one).level(share) for one in drawn])
    by_row = np.array([np.sort(one)[-2] for one in drawn])
    assert (by_tail >= exact).mean() > 0.9
    assert (by_row >= exact).mean() < 0.6
    assert np.median(by_tail) < exact + 1.5, "little more than is needed"


def test_a_level_and_its_share_belong_together() -> None:
    scores = np.random.default_rng(1).exponential(size=100_000)
    tail = Tail.of(scores)
    assert tail.share(tail.start) == pytest.approx(0.25)
    assert tail.share(tail.level(0.01)) == pytest.approx(0.01, rel=0.1)
    assert tail.share(tail.level(0.01)) < 0.01
    assert tail.level(0.0) == np.inf


def test_the_tail_raises_the_lowest_threshold_as_far_as_the_recall_allows() -> None:
    clean = np.random.default_rng(2).exponential(size=200)
    level, far, near = Tail.of(clean).level(0.005), np.full(50, 30.0), np.full(50, clean.max() + 0.1)
    assert logit_of(thresholds(clean, far, 0.005, by_tail=True)[0]) == pytest.approx(level, abs=1e-3)
    assert logit_of(thresholds(clean, near, 0.005, by_tail=True)[0]) == pytest.approx(near[0], abs=1e-2)
    assert thresholds(clean, far, 0.005)[0] < thresholds(clean, far, 0.005, by_tail=True)[0]
