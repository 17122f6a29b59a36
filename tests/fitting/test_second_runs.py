"""Answers of patched graphs without a first run, against the graphs that are served: on the padded toy."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.fitting.calibration import BENIGN_CHOICES
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.fitting.patched_runs import PatchedRuns, levels
from atpatch_onnx.fitting.second_runs import SecondRuns
from atpatch_onnx.fitting.site_selection import Candidate
from atpatch_onnx.fitting.training import Context
from atpatch_onnx.inference.prediction import predict
from atpatch_onnx.inference.runner import Runner

from .toy_hotfixes import fit_toy
from .toy_sites import trained_together

toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")


@functools.cache
def summed() -> tuple[Context, Candidate, SecondRuns, PatchedRuns]:
    context, _, together = trained_together()
    runs = SecondRuns(context, "logits")
    original = predict(Runner(context.model, context.folder, 1), context.data, np.arange(len(context.data)), "logits")
    return (
        context,
        Candidate(tuple(together), "two", "always", joint="sum"),
        runs,
        PatchedRuns(context, original, "logits", runs),
    )


CHANGES = {
    "redistribute": {},
    "excise": {"mend": "excise"},
    "lower-bar": {"companion": 0.03},
    "equal-tokens": {"tokens": "input_ids"},
    "all-of-these": {"mend": "excise", "companion": 0.03, "tokens": "input_ids"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_they_are_those_of_the_served_graph(change: str) -> None:
    context, first, runs, patched = summed()
    candidate = replace(first, **CHANGES[change])
    assert runs.answers(candidate, BENIGN_CHOICES[0], 0.5, context.parts.selection.rows) is not None
    for choice in BENIGN_CHOICES[:: 1 if candidate.mend == "redistribute" else 5]:
        for threshold in levels(context, candidate)[1:-1:2]:  # at both ends a score is as high as the threshold
            quick, served = (patched.outcomes(candidate, choice, threshold, served=way) for way in (False, True))
            np.testing.assert_array_equal(quick.flagged, served.flagged)
            np.testing.assert_array_equal(quick.predictions, served.predictions)
            np.testing.assert_allclose(quick.probabilities, served.probabilities, atol=1e-5)


def test_a_row_with_the_same_columns_keeps_every_bit() -> None:
    """So that candidates which act the same are equally good."""
    context, candidate, _, _ = summed()
    rows = context.parts.selection.rows
    low, _, middle, *_ = levels(context, candidate)
    one, other = SecondRuns(context, "logits"), SecondRuns(context, "logits")
    other.answers(candidate, BENIGN_CHOICES[0], low, rows)
    found = [runs.answers(candidate, BENIGN_CHOICES[0], middle, rows) for runs in (one, one, other)]
    assert found[0] is not None and found[1] is not None and found[2] is not None
    assert found[0].scores.tobytes() == found[1].scores.tobytes()
    np.testing.assert_allclose(found[2].scores, found[0].scores, atol=1e-5)


@pytest.mark.parametrize("change", [{"passes": "one"}, {"joint": "any"}, {"accept": "flip"}], ids=str)
def test_where_flags_or_answers_follow_from_more_than_the_sum_only_the_graph_can_tell(change: dict[str, str]) -> None:
    context, candidate, runs, _ = summed()
    asked = replace(candidate, **change)
    assert runs.answers(asked, BENIGN_CHOICES[0], 0.5, context.parts.selection.rows) is None


def test_a_fit_chooses_as_if_it_had_served_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, toy = fit_toy(True, clean=False, passes="two"), toys.toy(padded=True)
    monkeypatch.setattr(SecondRuns, "answers", lambda *_: None)
    served = fit(toy.model, toy.debug, passes="two", threads=1)
    evidence = served.evidence["calibration"]
    assert quick.evidence["calibration"].keys() == evidence.keys()
    for step, found in quick.evidence["calibration"].items():
        assert found == approximately(evidence[step]), step
    first, second = (replace(hotfix, evidence={}).digest for hotfix in (quick, served))
    assert first == second


def approximately(found: Any) -> Any:
    """Probabilities next to the others of a batch differ in their last digits."""
    if isinstance(found, dict):
        return {key: approximately(value) for key, value in found.items()}
    if isinstance(found, list):
        return [approximately(value) for value in found]
    return pytest.approx(found, abs=1e-5) if isinstance(found, float) else found
