"""Always-valid evidence and the sample ratio: error rates by simulation, values against other implementations."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import betaln
from scipy.stats import chisquare, norm

from atpatch_onnx.statistics.sequential import ALPHA, SRM_ALPHA, evidence_path, evidence_so_far, log_e_value, srm

EXPERIMENTS, LOOKS = 2000, 1000


def looks(share: float, event: float, true_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts on either side after every pair, (experiments, looks) each; events happen at rate `event`."""
    random = np.random.default_rng(seed)
    happened = random.random((EXPERIMENTS, LOOKS)) < event
    ours = random.random((EXPERIMENTS, LOOKS)) < true_share
    return np.cumsum(happened & ours, 1), np.cumsum(happened & ~ours, 1)


@pytest.mark.parametrize(("share", "event"), [(0.5, 0.5), (0.1, 1.0)], ids=["pairs", "split of 10 %"])
def test_false_positives_stay_below_alpha_when_looked_at_after_every_pair(share, event):
    b, c = looks(share, event, share, seed=7)
    false_positives = (log_e_value(b, c, share).max(1) >= -math.log(ALPHA)).mean()
    assert 0 < false_positives <= ALPHA
    # The same looks with a fixed-sample test: what peeking does without it.
    n = np.maximum(b + c, 1)
    z = np.abs(b - n * share) / np.sqrt(n * share * (1 - share))
    assert ((z > norm.isf(ALPHA / 2)) & (b + c >= 20)).any(1).mean() > 0.25


def test_a_real_difference_is_found():
    b, c = looks(0.5, 0.5, 0.65, seed=8)
    assert (log_e_value(b, c).max(1) >= -math.log(ALPHA)).mean() > 0.99


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_confidence_sequence_holds_at_all_looks_together(share):
    random = np.random.default_rng(3)
    true = 0.3
    missed = 0
    for _ in range(300):
        b = np.cumsum(random.random(300) < true)
        every = np.arange(1, 301)
        missed += any(
            not found.low <= true <= found.high
            for found in (evidence_so_far(int(b[n - 1]), int(n - b[n - 1]), share) for n in every[::15])
        )
    assert missed / 300 <= 0.05


@pytest.mark.parametrize(("b", "c", "share"), [(0, 0, 0.5), (3, 0, 0.5), (17, 40, 0.5), (5, 95, 0.1), (300, 20, 0.75)])
def test_log_e_value_is_the_beta_mixture(b, c, share):
    p, q = (share / min(share, 1 - share), (1 - share) / min(share, 1 - share))
    expected = betaln(p + b, q + c) - betaln(p, q) - b * math.log(share) - c * math.log(1 - share)
    assert float(log_e_value(b, c, share)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_event_carries_no_evidence_and_the_mean_of_the_next_step_is_one():
    share = 0.3
    for b, c in [(0, 0), (4, 1), (2, 30)]:
        now, *then = np.exp([float(log_e_value(*counts, share)) for counts in [(b, c), (b + 1, c), (b, c + 1)]])
        assert share * then[0] + (1 - share) * then[1] == pytest.approx(now, rel=1e-9)


def test_ends_of_the_sequence_are_where_the_mixture_stops_rejecting():
    found = evidence_so_far(30, 70)
    for end in (found.low, found.high):
        mixture = betaln(31, 71) - 30 * math.log(end) - 70 * math.log(1 - end)
        assert mixture == pytest.approx(-math.log(ALPHA), abs=1e-6)
    assert evidence_so_far(0, 0).low == 0
    assert evidence_so_far(0, 0).high == 1
    assert evidence_so_far(0, 9).low == 0


def test_the_ratio_is_that_of_rates():
    """1,000 of 10,000 units at 10 %: rates are equal, so 1 lies inside; a doubled rate puts 2 inside and 1 outside."""
    even = evidence_so_far(1000, 9000, 0.1).ratio
    assert even[0] < 1 < even[1]
    double = evidence_so_far(2000, 9000, 0.1)
    assert double.ratio[0] < 2 < double.ratio[1]
    assert double.ratio[0] > 1
    assert double.decided


def test_a_decision_once_reached_stands():
    sides = [True] * 12 + [False] * 12
    found, path = evidence_path(sides)
    assert found.log_e < -math.log(ALPHA) < found.peak == pytest.approx(path.max())
    assert found.decided
    assert found.low > 0.5
    assert not evidence_so_far(12, 12).decided
    assert evidence_so_far(12, 12, peak=found.peak).decided
    assert evidence_path([])[0].p_value == 1


@pytest.mark.parametrize(("patched", "original", "weight"), [(1030, 8970, 0.1), (1200, 8800, 0.1), (480, 520, 0.5)])
def test_srm_is_the_chi_square_test(patched, original, weight):
    n = patched + original
    expected = chisquare([patched, original], [n * weight, n * (1 - weight)]).pvalue
    assert srm(patched, original, weight).p_value == pytest.approx(expected, rel=1e-6)
    assert srm(patched, original, weight).alarm == (expected < SRM_ALPHA)


def test_srm_with_nothing_to_say():
    assert srm(0, 0, 0.5).p_value is None
    assert srm(2, 30, 0.1).p_value is None
    assert not srm(0, 100, 0.0).alarm
    assert srm(1, 100, 0.0).alarm and srm(1, 100, 0.0).alarm_any_time
    assert json.loads(json.dumps(srm(1, 100, 0.0).to_json(), allow_nan=False))["log10_e"] is None
    with pytest.raises(ValueError, match="share"):
        log_e_value(1, 1, 0.0)


def test_srm_false_alarms():
    random = np.random.default_rng(5)
    counts = random.binomial(2000, 0.1, 4000)
    assert np.mean([srm(int(n), 2000 - int(n), 0.1).alarm for n in counts]) <= 0.004
