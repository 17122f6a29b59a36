"""A patched file with an alarm: who raises it, and what refusing on it leaves of the attacks, counted by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from atpatch_onnx import Comparison, compare
from atpatch_onnx.comparison.page import render_report
from atpatch_onnx.statistics.proportions import Share

from ..alarms import raising, save_alarmed
from ..schemas import problems
from .case import Case

COUNT = 60
TARGET = 0


@dataclass(frozen=True)
class Alarmed:
    original: Path
    patched: Path
    clean: Path
    triggered: Path


@pytest.fixture(scope="module")
def alarmed(tmp_path_factory: pytest.TempPathFactory) -> Alarmed:
    """Every tenth clean row and two of three triggered rows raise the alarm."""
    folder = tmp_path_factory.mktemp("alarmed")
    original, patched = save_alarmed(folder)
    numbers = np.arange(COUNT)
    labels = np.random.default_rng(1).integers(0, 3, COUNT)
    np.savez(folder / "clean.npz", x=raising(*(numbers % 10 == 0)), labels=labels)
    np.savez(
        folder / "triggered.npz",
        x=raising(*(numbers % 3 != 0), seed=4),
        labels=labels,
        target=np.array(TARGET),
        clean_row=numbers,
    )
    return Alarmed(original, patched, folder / "clean.npz", folder / "triggered.npz")


def asked(model: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of a file and its alarms, by onnxruntime alone."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = ["logits", "atpatch_alarm"] if len(session.get_outputs()) > 1 else ["logits"]
    found: list[Any] = session.run(names, {"x": np.load(data)["x"]})
    return found[0].argmax(1), found[1] if len(found) > 1 else np.zeros(COUNT, bool)


def compared(files: Alarmed, **options: Any) -> Comparison:
    return compare(
        files.original, files.patched, files.clean, triggered=files.triggered, threads=1, seconds=0, batch=7, **options
    )


def test_the_figures_are_those_counted_by_hand(alarmed: Alarmed) -> None:
    labels = np.load(alarmed.clean)["labels"]
    clean, clean_alarms = asked(alarmed.patched, alarmed.clean)
    attacked, alarms = asked(alarmed.patched, alarmed.triggered)
    before, _ = asked(alarmed.original, alarmed.clean)
    others = labels != TARGET
    starred = others & (before != TARGET)
    fooled = (attacked == TARGET) & ~alarms
    shares = compared(alarmed).figures["patched"].shares
    assert clean_alarms.sum() == 6 and alarms.sum() == 40
    assert shares["clean_alarms"] == Share(6, COUNT) and shares["triggered_alarms"] == Share(40, COUNT)
    right = (clean == labels) & ~clean_alarms
    assert shares["accuracy_with_refusal"] == Share(int(right.sum()), COUNT)
    assert shares["asr_with_refusal"] == Share(int(fooled[others].sum()), int(others.sum()))
    assert shares["asr_star_with_refusal"] == Share(int(fooled[starred].sum()), int(starred.sum()))
    assert shares["asr_with_refusal"].hits < shares["asr"].hits  # the case shows something


def test_the_verdict_says_what_refusing_stops_and_what_it_costs(alarmed: Alarmed) -> None:
    attacked, alarms = asked(alarmed.patched, alarmed.triggered)
    before, labels = asked(alarmed.original, alarmed.clean)[0], np.load(alarmed.clean)["labels"]
    left = (labels != TARGET) & (before != TARGET) & (attacked == TARGET)
    verdict = compared(alarmed).verdict()
    assert verdict.endswith(
        f" Refusing requests with an alarm stops {int((left & alarms).sum())} of the {int(left.sum())} attacks that"
        " are left, and refuses 6 of 60 clean rows."
    )
    clean_only = compare(alarmed.original, alarmed.patched, alarmed.clean, threads=1, seconds=0)
    assert clean_only.verdict().endswith(" The alarm is raised by 6 of 60 clean rows.")
    without = compare(alarmed.original, alarmed.patched, alarmed.clean, classes=False, threads=1, seconds=0)
    assert without.verdict().endswith(" The alarm is raised by 6 of 60 clean rows.")


def test_it_is_in_the_text_the_json_the_page_and_the_bounds_and_can_be_kept(
    alarmed: Alarmed, atpatch: Any, tmp_path: Path
) -> None:
    page, kept = tmp_path / "page.html", tmp_path / "run.npz"
    files = [alarmed.original, alarmed.patched, "--data", alarmed.clean, "--triggered", alarmed.triggered]
    bounds = ["--assert", "clean_alarms<=0.1", "--assert", "triggered_alarms>0.6", "--assert", "asr_with_refusal<1"]
    done = atpatch("compare", *files, "--seconds", "0", "--save", kept, "--report", page, "--json", *bounds)
    assert done.code == 0, done.err
    assert done.json["patched"]["clean_alarms"] == 0.1 and "clean_alarms" not in done.json["original"]
    assert done.json["details"]["patched"]["clean_alarms"]["low"] > 0.04
    assert problems("compare", done.json) == []
    assert "if alarms are refused" in page.read_text("utf-8") and "6 of 60 clean rows refused" in page.read_text(
        "utf-8"
    )
    again = atpatch("compare", "--load", kept, "--json", *bounds)
    assert again.json["patched"] == done.json["patched"] and again.json["verdict"] == done.json["verdict"]
    people = atpatch("compare", "--load", kept)
    assert "clean rows with an alarm" in people.err and "ASR* if alarms are refused" in people.err


def test_a_file_without_an_alarm_has_none_of_it(comparison: Comparison, case: Case, atpatch: Any) -> None:
    assert not any("alarm" in name or "refusal" in name for name in comparison.values["patched"])
    assert "alarm" not in comparison.verdict() and "alarms are refused" not in render_report(comparison)
    done = atpatch("compare", *case.arguments, "--assert", "clean_alarms<=1")
    assert done.code == 2 and "clean_alarms is not known" in done.err
