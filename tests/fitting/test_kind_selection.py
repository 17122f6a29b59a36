"""`detector="auto"`: the rule that compares kinds of detectors, which of them are tried, and what the record says."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest

from atpatch_onnx.errors import DATA_MALFORMED, AtpatchError
from atpatch_onnx.fitting.fitted import Fitted, Outcome, best
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.fitting.hotfix_maker import Fit
from atpatch_onnx.fitting.kind_selection import Chosen, Trial, choice_in_words, choose_kind, trials
from atpatch_onnx.fitting.options import FitOptions
from atpatch_onnx.fitting.page import fit_page
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.datasets import DataSet

DEMO = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits" / "model.hotfix"

RULE = {
    # outcomes (attacks left, clean rows lost, attacks missed) from the cheapest on → the one that is taken
    "fewest attacks left": ([(20, 0, 0), (3, 5, 5)], 1),
    "the cheaper one within one standard error": ([(12, 0, 0), (9, 0, 0)], 0),
    "beyond one standard error": ([(13, 0, 0), (9, 0, 0)], 1),
    "one row is no difference": ([(1, 0, 0), (0, 0, 0)], 0),
    "then fewest clean rows lost": ([(0, 9, 0), (0, 4, 30)], 1),
    "then fewest attacks missed": ([(0, 5, 30), (0, 4, 2)], 1),
    "attacks left come first": ([(0, 40, 40), (9, 0, 0)], 0),
    "a kind that fell out does not come back": ([(30, 0, 0), (0, 8, 9), (0, 6, 8)], 1),
}


@pytest.mark.parametrize(("outcomes", "taken"), RULE.values(), ids=RULE)
def test_the_rule(outcomes, taken):
    assert best([Outcome(*counts) for counts in outcomes]) == taken


BEFORE = Outcome(left=100, lost=4, missed=100)


def made(*counts: int) -> Fit:
    fitted = object.__new__(Fitted)
    object.__setattr__(fitted, "outcome", Outcome(*counts))
    return Fit(fitted, 1, {})


def chosen(fits: dict[str, Fit | AtpatchError], unsuitable: dict[str, str] | None = None) -> tuple[Chosen, list[str]]:
    fitted: list[str] = []

    def fit_kind(trial: Trial) -> Fit | AtpatchError:
        fitted.append(trial.kind)
        return fits[trial.kind]

    names = [*(unsuitable or {}), *fits]
    found = choose_kind([Trial(kind, kind, (unsuitable or {}).get(kind)) for kind in names], BEFORE, fit_kind)
    return cast(Chosen, found), fitted


def test_a_cheap_detector_that_leaves_nothing_to_gain_ends_the_search():
    found, fitted = chosen({"profile": made(0, 4, 1), "cnn": made(0, 0, 0)})
    assert fitted == ["profile"] and found.record["chosen"] == "profile"
    assert found.record["compared"] == {"profile": {"left": 0, "lost": 4, "missed": 1}}
    assert found.record["not_used"]["cnn"] == "a cheaper detector leaves nothing to gain"


@pytest.mark.parametrize("counts", [(9, 4, 0), (0, 9, 0), (0, 4, 9)], ids=["attacks left", "rows lost", "not flagged"])
def test_one_that_leaves_something_is_compared_with_the_next(counts):
    found, fitted = chosen({"profile": made(*counts), "cnn": made(0, 4, 0)})
    assert fitted == ["profile", "cnn"] and found.record["chosen"] == "cnn"
    assert list(found.record["compared"]) == ["profile", "cnn"]


def test_a_kind_that_cannot_be_used_is_recorded_with_its_reason():
    blind = DATA_MALFORMED("a cnn detector needs maps of one fixed size")
    found, fitted = chosen({"profile": made(9, 4, 0), "cnn": blind}, unsuitable={"static": "rows do not differ"})
    assert fitted == ["profile", "cnn"] and found.record["chosen"] == "profile"
    assert found.record["not_used"]["static"] == "rows do not differ"
    assert found.record["not_used"]["cnn"] == blind.what


def test_where_no_kind_can_be_used_only_the_reasons_are_left():
    assert choose_kind([Trial("cnn", "cnn")], BEFORE, lambda trial: DATA_MALFORMED("why")) == {"cnn": "why"}


def test_an_unexpected_error_is_not_swallowed():
    def breaks(trial: Trial) -> Fit:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        choose_kind([Trial("profile", "profile"), Trial("cnn", "cnn")], BEFORE, breaks)


BOTH = {
    # what attention leaves (None: it cannot be used) → whether both signals are tried, and cnn after that
    "attacks": (made(9, 4, 9), ["attention", "both", "cnn"]),
    "attacks that are not flagged": (made(0, 4, 9), ["attention", "cnn"]),
    "nothing to gain": (made(0, 4, 0), ["attention"]),
    "no detector at all": (None, ["attention", "both", "cnn"]),
}


@pytest.mark.parametrize(("attention", "tried"), BOTH.values(), ids=BOTH)
def test_both_signals_are_read_where_attention_leaves_attacks(attention, tried):
    fitted: list[str] = []

    def fit_kind(trial: Trial) -> Fit | AtpatchError:
        fitted.append(trial.name)
        return (attention or DATA_MALFORMED("blind")) if trial.name == "attention" else made(5, 4, 9)

    both = Trial("profile", "both", signals="both", if_attacks_left=True)
    choose_kind([Trial("profile", "attention"), both, Trial("cnn", "cnn")], BEFORE, fit_kind)
    assert fitted == tried


# --- which kinds are tried


def rows(flips: bool, places: list[int]) -> DataSet:
    """Two clean rows, and labeled ones with a column each."""
    columns = np.concatenate([np.zeros((2, 4), bool), np.eye(4, dtype=bool)[places]])
    arrays = {"x": np.zeros((len(columns), 1)), "columns": columns, "pair": np.full(len(columns), -1)}
    return DataSet.from_arrays(arrays | ({"group": np.arange(len(columns))} if flips else {}))


STATIC = {
    "flips of one attribute": (rows(True, [1, 1]), {}, None),
    "flips of an attribute that moves": (rows(True, [1, 2]), {}, "the labeled columns are not the same in every row"),
    "a trigger": (rows(False, [1, 1]), {}, "it would act on every request"),
    "a bound on the flag rate": (rows(True, [1, 1]), {"max_clean_flagged": 0.01}, "it flags every request"),
    "some of the query rows": (rows(True, [1, 1]), {"every": 8}, "it reads all query rows"),
}


@pytest.mark.parametrize(("data", "options", "reason"), STATIC.values(), ids=STATIC)
def test_static_is_tried_on_flips_whose_columns_are_always_the_same(data, options, reason):
    static, *others = trials(data, FitOptions(**options))
    assert static.kind == "static" and (static.unsuitable or "").startswith(reason or "")
    assert (static.unsuitable is None) == (reason is None)
    assert [(one.kind, one.signals) for one in others] == [
        ("profile", "attention"),
        ("profile", "both"),
        ("cnn", "attention"),
    ]
    assert [one.unsuitable is None for one in others] == [True, True, "every" not in options]


SIGNALS = {"attention": ["profile", "cnn"], "both": ["profile, both signals"]}


@pytest.mark.parametrize(("signals", "names"), SIGNALS.items(), ids=SIGNALS)
def test_signals_that_are_given_leave_out_what_reads_others(signals, names):
    found = trials(rows(False, [1, 1]), FitOptions(signals=signals))
    assert [one.name for one in found if one.unsuitable is None] == names


# --- on the toy backdoor


def test_on_texts_auto_is_what_profile_is_alone():
    toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")
    toy = toys.toy(padded=True)
    auto, profile = (fit(toy.model, toy.debug, toy.clean, threads=1, detector=kind) for kind in ("auto", "profile"))
    assert auto.detector == "profile" and auto.threshold == profile.threshold
    record = auto.evidence["detectors"]
    assert record["chosen"] == "profile" and list(record["compared"]) == ["profile"]
    assert (
        record["not_used"].keys() == {"static", "profile, both signals", "cnn", "oneclass"}
        and "detectors" not in profile.evidence
    )
    assert {**auto.evidence, "detectors": None} == {**profile.evidence, "detectors": None}


@pytest.mark.parametrize("as_debug", [False, True], ids=["--clean", "--debug without a labeled row"])
def test_clean_rows_get_oneclass(as_debug):
    toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")
    toy = toys.toy(padded=False)
    count = len(toy.clean["input_ids"])
    unlabeled = {"columns": np.zeros((count, toys.LENGTH), bool), "pair": np.full(count, -1)}
    hotfix = fit(toy.model, {**toy.clean, **unlabeled}) if as_debug else fit(toy.model, clean=toy.clean)
    assert hotfix.detector == "oneclass"
    record = hotfix.evidence["detectors"]
    assert (record["chosen"], record["compared"]) == ("oneclass", {})
    assert set(record["not_used"].values()) == {"no labeled row is given"}


def test_options_of_clean_rows_are_refused_with_labeled_ones():
    toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")
    toy = toys.toy(padded=False)
    with pytest.raises(AtpatchError) as error:
        fit(toy.model, toy.debug, trim=0.02)
    assert error.value.code == "ATP060" and "trim" in error.value.what


def test_the_command_says_which_kind_it_chose_and_why(tmp_path, atpatch):
    toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")
    toy = toys.toy(padded=False)
    onnx.save_model(toy.model, tmp_path / "m.onnx")
    np.savez(tmp_path / "clean.npz", **toy.clean)
    page = tmp_path / "fit.html"
    run = atpatch("fit", tmp_path / "m.onnx", "--clean", tmp_path / "clean.npz", "--threads", 1, "--report", page)
    assert run.code == 0 and "not used: no labeled row is given" in page.read_text()
    said = " ".join(run.err.split())
    for line in choice_in_words(Hotfix.load(tmp_path / "m.hotfix").evidence["detectors"]):
        assert line in said


def test_the_page_of_a_hotfix_that_names_no_comparison_says_nothing_of_one():
    """The demo's hotfix is of one kind that was asked for, and older than the comparison."""
    assert "Which detector" not in fit_page(Hotfix.load(DEMO), "model.onnx")
