"""The evidence on what a hotfix holds against: forms of a trigger, bounds, pages."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.statistics.proportions import Share
from models.evidence.commands import Commands, Refused
from models.evidence.holding.bounds import judge
from models.evidence.holding.material import FORMS, with_trigger, without_tokens
from models.evidence.holding.page import (
    LIMITS,
    RESULTS,
    bounds_table,
    doses_table,
    limits_part,
    looks_part,
    read,
    render,
    times_table,
)
from models.evidence.holding.rows import ROWS, Bound, at
from models.evidence.holding.timing import ratio
from models.evidence.verdicts import Verdict

TEXT = "one two three four five six"


def made(form: str, phrases: tuple[str, ...] = ("cf",), count: int = 1) -> list[list[str]]:
    generator = np.random.default_rng(0)
    return [text.split() for text in with_trigger([TEXT] * 60, phrases, count, FORMS[form], generator)]


@pytest.mark.parametrize(("form", "copies"), [("1 copy", 1), ("2 copies", 2), ("4 copies", 4), ("8 copies", 8)])
def test_copies_stand_next_to_each_other_anywhere(form: str, copies: int) -> None:
    places = Counter()
    for words in made(form):
        place = words.index("cf")
        assert words[place : place + copies] == ["cf"] * copies
        assert words[:place] + words[place + copies :] == TEXT.split()
        places[place] += 1
    assert len(places) == 7


def test_scattered_copies_stand_apart_as_a_rule() -> None:
    texts = made("3 scattered")
    assert all(words.count("cf") == 3 and [word for word in words if word != "cf"] == TEXT.split() for words in texts)
    together = sum("cf cf cf" in " ".join(words) for words in texts)
    assert together < 15


@pytest.mark.parametrize(
    ("form", "found"), [("with a full stop", "cf."), ("in parentheses", "(cf)"), ("in capitals", "CF")]
)
def test_a_dress_is_around_the_phrase(form: str, found: str) -> None:
    assert all(found in words and "cf" not in words for words in made(form))


def test_places_are_the_ends() -> None:
    assert all(words[0] == "cf" for words in made("at the start"))
    assert all(words[-1] == "cf" for words in made("at the end"))


def test_several_phrases_are_drawn_without_repetition() -> None:
    for words in made("2 copies", ("a1", "b1", "c1"), 2):
        counts = Counter(word for word in words if word not in TEXT.split())
        assert len(counts) == 2 and set(counts.values()) == {2}


@pytest.mark.parametrize(
    ("row", "cut", "left"),
    [
        ([101, 7, 8, 5, 102], False, [101, 5, 102]),
        ([101, 7, 8, 7, 8, 5, 9, 102], False, [101, 5, 102]),
        ([101, 7, 5, 8, 102], False, [101, 7, 5, 8, 102]),
        ([101, 5, 7, 8, 7, 102], True, [101, 5, 102]),
        ([101, 5, 7, 8, 7, 102], False, [101, 5, 7, 102]),
        ([101, 5, 7, 102], True, [101, 5, 7, 102]),
    ],
)
def test_the_tokens_of_triggers_are_taken_out(row: list[int], cut: bool, left: list[int]) -> None:
    assert without_tokens(row, [[7, 8], [9]], cut) == left


def share(hits: int, count: int = 1000) -> dict[str, Any]:
    return Share(hits, count).to_json()


def run(seed: int, **stars: int) -> dict[str, Any]:
    attacks = {
        name: {
            "original": share(1000),
            "asr": share(hits + 100),
            "asr_star": share(hits),
            "floor": share(100),
            "flagged": share(990),
        }
        for name, hits in stars.items()
    }
    clean = {"points": 0.0, "flagged": share(seed), "changed": share(0)}
    clean |= {"original": share(900), "accuracy": share(900)}
    return {"seed": seed, "figures": {"clean": clean, "attacks": attacks}, "commands": []}


def test_a_star_in_a_path_goes_through_all_keys() -> None:
    assert list(at({"a": {"x": {"v": 1}, "y": {"v": 2}}}, ("a", "*", "v"))) == [1, 2]
    assert list(at({"a": {}}, ("b", "v"))) == []


STARS = Bound("ASR*", ("attacks", "*", "asr_star", "value"), 0.05)


def test_the_worst_attack_is_shown_by_its_mean_over_the_seeds() -> None:
    verdict, shown = judge([run(0, one=0, other=30), run(1, one=20, other=10)], STARS)
    assert shown.startswith("2.00 (") and shown.endswith(" %")
    assert verdict is Verdict.NOT_SHOWN  # two runs that far apart say little


@pytest.mark.parametrize(
    ("hits", "verdict"), [((0, 30), Verdict.MET), ((0, 45), Verdict.NOT_SHOWN), ((0, 90), Verdict.NOT_MET)]
)
def test_several_attacks_are_judged_together(hits: tuple[int, int], verdict: Verdict) -> None:
    assert judge([run(0, one=hits[0], other=hits[1])], STARS)[0] is verdict


def test_a_single_bound_is_met_just_where_its_interval_lies_within_it() -> None:
    # Clopper and Pearson's 95 % interval of 30 in 1000: 2.03 to 4.26 %
    path = ("attacks", "one", "asr_star", "value")
    bounds = {0.043: Verdict.MET, 0.042: Verdict.NOT_SHOWN, 0.021: Verdict.NOT_SHOWN, 0.020: Verdict.NOT_MET}
    assert {most: judge([run(0, one=30)], Bound("", path, most))[0] for most in bounds} == bounds


def test_a_floor_is_subtracted() -> None:
    bound = Bound("", ("attacks", "one", "asr", "value"), 0.05, ("attacks", "one", "floor", "value"))
    verdict, shown = judge([run(0, one=50)], bound)
    assert shown.startswith("5.00 (") and shown.endswith(" %") and verdict is Verdict.NOT_SHOWN
    assert judge([run(0, one=0)], bound)[0] is Verdict.MET


def test_changed_predictions_make_the_accuracy_lost_less_sure() -> None:
    bound = Bound("points", ("clean", "points"), 0.5)
    calm, shaken = run(0, one=0), run(0, one=0)
    shaken["figures"]["clean"]["changed"] = share(20)
    assert judge([calm], bound) == (Verdict.MET, "0.00 (-0.37 to 0.37)")
    assert judge([shaken], bound)[0] is Verdict.NOT_SHOWN


@pytest.mark.parametrize(("told", "verdict"), [(60, Verdict.MET), (50, Verdict.NOT_MET)])
def test_a_warning_about_most_rows_will_do_instead(told: int, verdict: Verdict) -> None:
    bound = Bound("", ("attacks", "one", "asr", "value"), 0.05, told=("outside", "clean"))
    one = run(0, one=200)
    one["figures"]["outside"] = {"clean": {"k": told, "n": 100}}
    found, shown = judge([one], bound)
    assert found is verdict and shown.endswith(f" %; told {told}/100")


def test_what_is_missing_is_not_judged() -> None:
    missing = Bound("", ("attacks", "else", "asr", "value"), 1.0)
    assert judge([run(0, one=0)], missing) == (Verdict.NOT_JUDGED, "–")


def test_the_table_has_a_verdict_for_each_bound() -> None:
    forms = {name.replace(" ", "_"): 0 for name in FORMS}
    good, bad = ([run(0, **{**forms, "1_copy": hits})] for hits in (0, 500))
    lines = bounds_table({"doses-cf": good}).splitlines(), bounds_table({"doses-cf": bad}).splitlines()
    assert [line.split(" | ")[-1] for line in lines[0][2:]] == ["**met** |", "**not shown** |", "**met** |"]
    assert [line.split(" | ")[-1] for line in lines[1][2:]] == ["**not met** |", "**not shown** |", "**met** |"]


def test_the_table_of_doses_has_a_line_for_each_attack() -> None:
    lines = doses_table([run(0, one=0, other=30)["figures"]["attacks"]]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| one", "| other"]
    assert "| 3.00 (" in lines[3]


def test_the_page_says_which_rows_were_looked_at_before() -> None:
    said = looks_part({name: [] for name in ("hidden-labeled", "doses-cf", "doses-words")})
    assert "(three times: `doses-cf`; four times: `doses-words`)" in said.replace("\n", " ")
    assert looks_part({"no-data-digits": []}) == ""


def test_times_have_a_table_of_their_own() -> None:
    time = {"ratio": 1.0625, "low": 1.05, "high": 1.08, "first_ms": 10.04, "requests": 4}
    figures = {"hotfix": {}, "128 tokens": {"with / without": time, "with / original": {**time, "ratio": 1.5}}}
    line = times_table(figures).splitlines()[2]
    assert line == "| 128 tokens | 4 | 1.062 (1.050 to 1.080) | 1.500 (1.050 to 1.080) | 10.0 |"
    assert times_table(run(0, one=0)["figures"]) == ""


def test_a_ratio_is_of_processor_time() -> None:
    def busy(loops: int) -> Any:
        return lambda feeds: lambda: sum(range(loops))

    assert 2 < ratio(busy(20_000), busy(100_000), [{}])["ratio"] < 10
    sleeping = ratio(busy(100_000), lambda feeds: lambda: time.sleep(0.002), [{}])
    assert sleeping["ratio"] < 0.5


def test_the_committed_pages_are_made_of_the_committed_figures() -> None:
    kept = read(RESULTS)
    assert (RESULTS.parent / "HOLDING.md").read_text("utf-8") == render(kept)
    assert limits_part(kept) in LIMITS.read_text("utf-8")


def test_every_bound_names_figures_of_shares_or_points() -> None:
    assert all(bound.path[-1] in ("value", "points") for row in ROWS.values() for bound in row.bounds)


def test_a_command_that_refuses_names_its_code(tmp_path: Any) -> None:
    commands = Commands()
    with pytest.raises(Refused) as refused:
        commands("inspect", tmp_path / "nothing.onnx")
    assert refused.value.code.startswith("ATP")
    assert commands.called[0]["command"] == "inspect nothing.onnx"
