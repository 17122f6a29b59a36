"""The best other defense of a setting is found by a rule, not by hand."""

from __future__ import annotations

from typing import Any

import pytest

from models.evidence.defenses import SLACK, comparisons, defenses, sentences
from models.evidence.other_tables import peers
from models.evidence.verdicts import Verdict

RATE = 0.005


def figures(left: float, accuracy: float = 0.9, refused: float | None = None) -> dict[str, Any]:
    found = {"asr_star": left, "asr": left, "accuracy": accuracy} | (
        {} if refused is None else {"clean_flagged": refused}
    )
    return {name: {"value": value, "count": 1000} for name, value in found.items()}


def evidence(hotfix: float, **peers: Any) -> dict[str, Any]:
    steps = {"fit": {"patched": figures(hotfix)}, "peers": {**peers, "seconds_taken": 1.0}}
    return {
        "max_clean_flagged": RATE,
        "settings": [{"name": "one", "group": "words"}],
        "runs": [{"setting": "one", "seed": 0, "steps": steps}],
    }


def refusing(cheap: dict[str, Any], dear: dict[str, Any]) -> dict[str, Any]:
    return {"rates": {"0.005": cheap, "0.05": dear}}


def test_every_bar_and_every_stage_is_a_row() -> None:
    pruned = {"share": 0.3, "pruned": figures(0.8), **figures(0.7)}
    rows = list(
        defenses({"strip": refusing(figures(0.9), figures(0.5)), "fine_pruning": pruned, "dan": {"skipped": "no"}})
    )
    assert [row.title for row in rows] == [
        "STRIP, N = 5, bar at 0.5 %", "STRIP, N = 5, bar at 5 %", "DAN: no",
        "Fine-Pruning, 30 % of neurons cut", "Fine-Pruning, 30 % of neurons cut, then tuned",
    ]  # fmt: skip
    assert [row.rate for row in rows] == [RATE, 0.05, 0, 0, 0]


def test_the_best_peer_leaves_least_at_the_hotfixs_clean_cost() -> None:
    """A higher bar is too dear, and so is a head mask that loses more than the slack; at any cost both may win."""
    dear = figures(0.01, 0.9 - SLACK - 0.001)
    whole = evidence(
        0.2, dan=refusing(figures(0.4), figures(0.05)), head_mask=dear, strip=refusing(figures(0.5), figures(0.3))
    )
    (equal,), (anyhow,) = comparisons(whole), comparisons(whole, any_cost=True)
    assert equal.peer.title == "DAN, bar at 0.5 %" and equal.verdict is Verdict.MET
    assert anyhow.peer.title == "static head mask" and anyhow.verdict is Verdict.NOT_MET
    at_the_edge = evidence(0.2, dan=refusing(figures(0.4), figures(0.05)), head_mask=figures(0.01, 0.9 - SLACK + 1e-9))
    assert comparisons(at_the_edge)[0].peer.title == "static head mask"


def test_of_peers_that_leave_the_same_the_most_accurate_is_the_best() -> None:
    both = evidence(0.2, dan=refusing(figures(0.1, 0.89), figures(0)), head_mask=figures(0.1, 0.895))
    assert comparisons(both)[0].peer.title == "static head mask"


def test_a_small_difference_is_none() -> None:
    assert comparisons(evidence(0.010, head_mask=figures(0.005)))[0].verdict is Verdict.NOT_SHOWN


def test_settings_are_compared_together() -> None:
    """p = 0.02 or so in one of three settings is no difference; in one by itself it is."""
    whole = evidence(0.013, head_mask=figures(0.027))
    assert comparisons(whole)[0].verdict is Verdict.MET
    for name in ("two", "three"):
        whole["settings"].append({"name": name, "group": "words"})
        steps = {"fit": {"patched": figures(0.1)}, "peers": {"head_mask": figures(0.1)}}
        whole["runs"].append({"setting": name, "seed": 0, "steps": steps})
    assert {one.verdict for one in comparisons(whole)} == {Verdict.NOT_SHOWN}


def test_the_sentences_name_where_the_hotfix_is_behind() -> None:
    whole = evidence(0.5, head_mask=figures(0.2, 0.896))
    equal, anyhow, counted = sentences(whole)
    assert "static head mask: 1; " in counted and "DAN: 0; " in counted
    behind = (
        "(`one`: ASR\\* 50.00 % (ASR 50.00 %) with the hotfix, 20.00 % (ASR 20.00 %) with static head mask, 0.4 points"
        " less accurate). The best is static head mask in 1."
    )
    for told in (equal, anyhow):
        assert told.endswith(
            f"leaves less in 0, the two are not told apart in 0, and the other leaves less in 1 {behind}"
        )
    ahead, *_ = sentences(evidence(0.1, head_mask=figures(0.2)))
    assert "of 1 settings, the hotfix leaves less in 1," in ahead and "and the other leaves less in 0." in ahead


def test_steps_of_peers_are_compared_as_one_and_other_seeds_are_not() -> None:
    whole = evidence(0.2, head_mask=figures(0.3))
    whole["runs"][0]["steps"]["more_peers"] = {"word_filter": figures(0.1)}
    other = {"fit": {"patched": figures(0.9)}, "onion": {"onion": figures(0.0)}}
    whole["runs"].append({"setting": "one", "seed": 1, "steps": other})
    (found,) = comparisons(whole)
    assert found.peer.title == "word filter" and found.hotfix["asr_star"]["value"] == 0.2
    assert found.peer.needs == "the trigger's words"


def test_the_hotfix_that_refuses_on_an_alarm_is_a_row_next_to_it_and_no_peer() -> None:
    whole = evidence(0.5, dan=refusing(figures(0.4, refused=0.005), figures(0.3, refused=0.05)))
    before = comparisons(whole, any_cost=True)
    whole["runs"][0]["steps"]["alarm"] = refusing(figures(0.2, refused=0.004), figures(0.1, refused=0.06))
    whole["runs"][0] |= {"victim": {}}
    whole["runs"][0]["steps"]["fit"] |= {"original": figures(1.0), "clean_flagged": {"value": 0.0, "count": 1000}}
    ((_, table),) = peers(whole)
    assert [row[0] for row in table.rows] == [
        "original", "**hotfix**", "**hotfix**, refused on an alarm, bar at 0.5 %",
        "**hotfix**, refused on an alarm, bar at 5 %", "DAN, bar at 0.5 %", "DAN, bar at 5 %",
    ]  # fmt: skip
    assert [(one.peer.title, one.verdict) for one in comparisons(whole, any_cost=True)] == [
        (one.peer.title, one.verdict) for one in before
    ]


def test_a_peer_that_was_asked_a_part_loses_what_it_lost_there() -> None:
    """The original is 90 % right on all rows and 80 % on the part; the peer loses 1 point, the hotfix half a point."""
    onion: dict[str, Any] = {"variants": {"tuned": figures(0.05, 0.79)}, "before": figures(1.0, 0.8)}
    onion["rows"] = {"clean": 9, "attacked": 4}
    whole = evidence(0.2, onion=onion)
    whole["runs"][0]["steps"]["fit"] = {"patched": figures(0.2, 0.895), "original": figures(1.0, 0.9)}
    (found,) = comparisons(whole)
    assert found.peer.title == "ONION (of 9 clean and 4 triggered requests), tuned" and found.lost == pytest.approx(0.5)
    del onion["before"]
    assert comparisons(whole) == [], "10.5 points less accurate"


@pytest.mark.parametrize("any_cost", [False, True])
def test_without_peers_nothing_is_compared(any_cost: bool) -> None:
    assert comparisons(evidence(0.5), any_cost=any_cost) == []
    assert sentences(evidence(0.5)) == ["No other defense was measured."]
