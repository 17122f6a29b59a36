"""Figures of merit and their intervals, and paired timing."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from atpatch_onnx.benchmark.paired_latency import Spread, paired_latency
from atpatch_onnx.fitting.judge import rate
from atpatch_onnx.statistics.proportions import Share, accuracy, asr, asr_star, changed, flag_rate

LABELS = np.array([3, 0, 7, 7])


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The textbook formula."""
    z, p = 1.959963984540054, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return middle - half, middle + half


@pytest.mark.parametrize(("hits", "count"), [(0, 360), (2, 360), (13, 27), (325, 325)])
def test_interval_is_wilsons(hits: int, count: int) -> None:
    assert Share(hits, count).interval == pytest.approx(wilson(hits, count), abs=1e-9)


@pytest.mark.parametrize(("hits", "count"), [(0, 360), (2, 360), (13, 27), (325, 325), (1, 9), (517, 3000)])
def test_a_fit_and_a_comparison_print_the_same_interval(hits: int, count: int) -> None:
    """Bit for bit what scipy says of the same counts, in all places."""
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    found, share = rate(np.arange(count) < hits), Share(hits, count).to_json()
    assert (found["low"], found["high"]) == (expected.low, expected.high) == (share["low"], share["high"])
    assert (found["k"], found["n"], found["rate"]) == (hits, count, hits / count) == (hits, count, share["value"])


def test_there_is_one_wilson_interval() -> None:
    root = Path(__file__).parents[2]
    sources = [path for folder in ("atpatch_onnx", "models") for path in (root / folder).rglob("*.py")]
    asking = [path.name for path in sources if re.search(r"proportion_ci|NormalDist|1\.95996", path.read_text("utf-8"))]
    assert asking == ["proportions.py"]


def test_of_nothing_nothing_is_known() -> None:
    assert math.isnan(Share(0, 0).value)
    assert Share(0, 0).interval == (0.0, 1.0)
    assert Share(0, 0).to_json()["value"] is None


def test_accuracy_counts_right_predictions() -> None:
    assert accuracy(np.array([3, 0, 1, 7]), LABELS) == Share(3, 4)


def test_asr_counts_the_target() -> None:
    assert asr(np.array([0, 0, 5, 0]), 0) == Share(3, 4)


def test_asr_star_leaves_out_twins_that_are_the_target_anyway() -> None:
    attacked, twins = np.array([0, 0, 5, 0]), np.array([3, 0, 7, 0])
    assert asr_star(attacked, twins, 0) == Share(1, 2)


def test_asr_star_of_no_open_twin_is_a_share_of_nothing() -> None:
    assert asr_star(np.array([0, 1]), np.array([0, 0]), 0) == Share(0, 0)


def test_changed_counts_differing_predictions() -> None:
    assert changed(LABELS, np.array([3, 1, 7, 8])) == Share(2, 4)


def test_a_request_is_flagged_once_however_many_sites_flag_it() -> None:
    flags = np.array([[True, True], [False, False], [False, True]])
    assert flag_rate(flags) == Share(2, 3)


def test_a_flag_rate_of_no_site_is_a_share_of_nothing() -> None:
    assert flag_rate(np.zeros((4, 0), bool)) == Share(0, 0)


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4,\)"):
        accuracy(LABELS, LABELS[:3])
    with pytest.raises(ValueError, match="equal"):
        changed(LABELS[:, None], LABELS[:, None])


def test_paired_latency_takes_turns_and_finds_the_ratio() -> None:
    calls: list[str] = []

    def sleeper(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    latency = paired_latency(lambda: sleeper("original", 3e-3), lambda: sleeper("patched", 6e-3), pairs=12)
    # Sleeps are never shorter than asked, and overrun alike.
    assert 1.4 < latency.ratio.median < 2.4
    assert 3 <= latency.original.median < latency.patched.median
    timed = calls[-24:]
    assert [set(timed[i : i + 2]) for i in range(0, 24, 2)] == [{"original", "patched"}] * 12
    assert timed[0:24:4] != timed[2:24:4]  # the order is swapped from pair to pair


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([4, 1, 3, 2, 5]) == Spread(3, 2, 4)
