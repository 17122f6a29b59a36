"""Timing in turns, the interval of the ratio, and the threshold that flags so many samples."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, strategies as st

from atpatch_onnx.benchmark.paired_latency import time_pairs
from atpatch_onnx.benchmark.requests import highest_threshold
from atpatch_onnx.benchmark.result import ratio_interval


def test_time_ends_the_pairs_but_fewest_are_taken():
    calls: list[str] = []

    def sleeper(name: str) -> None:
        calls.append(name)
        time.sleep(3e-3)

    taken = time_pairs(lambda: sleeper("original"), lambda: sleeper("patched"), pairs=1000, seconds=1e-9, fewest=5)
    assert taken.shape == (6, 2)  # even, so that each was first as often
    assert (taken >= 3e-3).all()
    assert calls[-12:] == ["patched", "original", "original", "patched"] * 3


def test_the_ratio_is_taken_pair_by_pair():
    """A machine that slows down meanwhile does not move it."""
    original = np.geomspace(1, 100, 40)
    interval = ratio_interval(np.stack([original, original * 1.5], 1))
    assert (interval.median, interval.low, interval.high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_covers_the_median_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        ratios = np.exp(generator.normal(0.1, 0.2, 60))
        interval = ratio_interval(np.stack([np.ones(60), ratios], 1))
        assert interval.low <= interval.median <= interval.high
        covered += interval.low <= np.exp(0.1) <= interval.high
    assert covered >= 52  # 57 of 60 expected


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8, unique=True), st.data())
def test_the_highest_threshold_flags_so_many(peaks, data):
    wanted = data.draw(st.integers(1, len(peaks)))
    scores = np.sort(np.array(peaks, np.float32))[::-1]
    found = highest_threshold(lambda threshold: int((scores > np.float32(threshold)).sum()), wanted)
    assert int((scores > np.float32(found)).sum()) == wanted
    least = float(scores[wanted - 1])
    assert found >= least - 0.01 * abs(least) - 1e-30


def test_scores_that_tie_are_flagged_together():
    scores = np.array([1.0, 1.0, 0.5], np.float32)
    found = highest_threshold(lambda threshold: int((scores > np.float32(threshold)).sum()), 1)
    assert int((scores > np.float32(found)).sum()) == 2
