"""`fit --alarm`: what it learns, what its bar is set on, and what it says of held-back rows."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.fitting.splits import join, split
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.datasets import as_dataset
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.patching.apply import patch
from rewriters.names import ALARM, ALARM_SCORE

from ..schemas import problems
from ..toy_backdoor import many_clean, toy
from .toy_hotfixes import kept_hotfix

MOST = 0.05


@functools.cache
def fitted(alarm: bool) -> Hotfix:
    def make() -> Hotfix:
        options = {"alarm": True, "max_alarms": MOST} if alarm else {}
        made = toy(True)
        return fit(made.model, made.debug, many_clean(True), passes="two", detector="profile", threads=1, **options)

    return kept_hotfix(f"alarm-{alarm}", make, __file__)


def test_it_tells_attacks_from_clean_rows_that_were_held_back() -> None:
    alarm = fitted(True).evidence["report"]["alarm"]
    assert alarm["attacks"]["rate"] > 0.8 and alarm["clean"]["low"] <= MOST
    assert alarm["clean_bound"]["allowed"] == MOST and alarm["left"]["n"] <= alarm["attacks"]["n"]


def test_what_fit_prints_is_of_the_form_that_the_reference_gives() -> None:
    assert problems("fit", json.loads(json.dumps({"output": "m.hotfix", **fitted(True).describe()}))) == []


def test_everything_else_is_as_without_it() -> None:
    with_alarm, without = fitted(True), fitted(False)
    report = {name: found for name, found in with_alarm.evidence["report"].items() if name != "alarm"}
    same = replace(with_alarm, alarm=None, evidence={**with_alarm.evidence, "report": report})
    assert same.digest == without.digest and without.alarm is None


def test_the_patched_model_says_what_the_report_says(tmp_path: Path) -> None:
    hotfix, made = fitted(True), toy(True)
    data = join(as_dataset(made.debug), as_dataset(many_clean(True)))
    part = split(data, 0).report
    runner = Runner(patch(made.model, hotfix=hotfix), tmp_path, 1)
    told, scores = np.zeros(len(data), bool), np.zeros(len(data))
    for rows, outputs in runner.batches(data, part.rows, 32, [ALARM, ALARM_SCORE]):
        told[rows], scores[rows] = outputs[ALARM], outputs[ALARM_SCORE]
    alarm = hotfix.evidence["report"]["alarm"]
    assert told[part.clean].sum() == alarm["clean"]["k"] and told[part.anomalous].sum() == alarm["attacks"]["k"]
    np.testing.assert_array_equal(told[part.rows], scores[part.rows] > 0)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"max_alarms": 0.0001}, "ATP056"),
        ({"max_alarms": 1.0}, "ATP060"),
        ({"detector": "oneclass"}, "ATP060"),
    ],
)
def test_it_is_refused_where_rows_or_options_do_not_admit_it(options: dict[str, object], code: str) -> None:
    made = toy(True)
    with pytest.raises(AtpatchError) as caught:
        fit(made.model, made.debug, None, threads=1, **{"alarm": True, "detector": "profile", **options})
    assert caught.value.code == code
