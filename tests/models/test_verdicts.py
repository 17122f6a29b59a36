"""Bounds judged by intervals, one by one and together."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import binomtest

from models.evidence.estimates import Estimate, of_shares
from models.evidence.measures import LOST, left, mean_of, one_by_one
from models.evidence.verdicts import Verdict, joint, judged, known, p_value, with_p

MET, NOT_MET, NOT_SHOWN = Verdict.MET, Verdict.NOT_MET, Verdict.NOT_SHOWN


@pytest.mark.parametrize(
    ("bound", "least", "verdict"),
    [
        (0.3, False, MET),
        (0.25, False, NOT_SHOWN),  # met at its point
        (0.15, False, NOT_SHOWN),  # not met at its point
        (0.05, False, NOT_MET),
        (0.05, True, MET),
        (0.15, True, NOT_SHOWN),
        (0.25, True, NOT_SHOWN),
        (0.35, True, NOT_MET),
    ],
)
def test_a_bound_is_met_by_the_bad_end_and_not_met_by_the_good_one(bound: float, least: bool, verdict: Verdict) -> None:
    assert judged(Estimate(0.2, 0.1, 0.3, 3), bound, least=least) is verdict


def test_a_bound_of_several_parts_is_met_where_all_are() -> None:
    assert joint([MET, MET]) is MET and joint([MET, NOT_SHOWN]) is NOT_SHOWN
    assert joint([MET, NOT_SHOWN, NOT_MET]) is NOT_MET and joint([]) is NOT_SHOWN
    assert known(True) is MET and known(False) is NOT_MET


@pytest.mark.parametrize(("hits", "bound"), [(3, 0.02), (30, 0.02), (0, 0.004)])
def test_a_p_value_is_that_of_the_exact_test(hits: int, bound: float) -> None:
    """Twice the smaller tail, as the interval has half of its chance of error on either side."""
    side = "less" if hits / 1000 < bound else "greater"

    def at(level: float) -> Estimate:
        found = of_shares([{"value": hits / 1000, "count": 1000}], level)
        assert found is not None
        return found

    assert p_value(at, bound) == pytest.approx(2 * binomtest(hits, 1000, bound, side).pvalue, rel=1e-6)


def test_a_bound_at_the_point_shows_nothing() -> None:
    assert p_value(lambda level: Estimate(0.1, 0.1 - level / 10, 0.1 + level / 10, 3), 0.1) == 1.0


def test_an_adjusted_p_value_is_judged_by_the_side_of_the_mean() -> None:
    assert with_p(0.05, 0.1, 0.2) is MET and with_p(0.051, 0.1, 0.2) is NOT_SHOWN
    assert with_p(0.01, 0.3, 0.2) is NOT_MET and with_p(0.01, 0.3, 0.2, least=True) is MET


def run(hits: int, count: int = 1000) -> dict[str, Any]:
    right = {"value": 0.9, "count": count}
    after = {"value": 0.9 - hits / count, "count": count}
    changed = {"value": (hits + 4) / count, "count": count}
    patched = {"asr": {"value": hits / count, "count": count}, "accuracy": after, "clean_changed": changed}
    return {"original": {"accuracy": right}, "patched": patched}


def test_what_one_setting_shows_several_may_not() -> None:
    """None of 1,000 is below 0.4 % with p = 0.036, which four such settings make 0.15."""
    alone = one_by_one({"one-a": {0: run(0)}}, left("asr"), 0.004)
    assert alone["one-a"].p == pytest.approx(2 * 0.996**1000, rel=1e-6) and alone["one-a"].verdict is MET
    four = one_by_one({f"one-{name}": {0: run(0)} for name in "abcd"}, left("asr"), 0.004)
    assert {found.verdict for found in four.values()} == {NOT_SHOWN}
    assert four["one-a"].p == pytest.approx(8 * 0.996**1000, rel=1e-6)
    worse = one_by_one({"one-a": {0: run(0)}, "one-b": {0: run(50)}}, left("asr"), 0.01)
    assert [found.verdict for found in worse.values()] == [MET, NOT_MET]


def test_settings_of_one_data_set_have_no_more_requests_than_one() -> None:
    def high(*names: str) -> float:
        found = mean_of({name: {0: run(0)} for name in names}, left("asr"))
        assert found is not None
        return found.high

    assert high("one-a", "one-b", "one-c") == pytest.approx(high("one-a"))
    assert high("one-a", "two-a") == pytest.approx(high("one-a") / 2**0.5)


def test_accuracy_lost_is_judged_by_what_changed() -> None:
    """6 lost and 2 gained: 8 changed, 4 fewer right ones."""
    found = mean_of({"one": {0: run(4)}}, LOST)
    lost, gained = (of_shares([{"value": hits / 1000, "count": 1000}]) for hits in (6, 2))
    assert found is not None and lost is not None and gained is not None
    assert found.mean == pytest.approx(0.004)
    above = ((lost.high - lost.mean) ** 2 + (gained.mean - gained.low) ** 2) ** 0.5
    assert found.high == pytest.approx(0.004 + above)
