"""A guard that learned only from clean rows (`patch --calibrate`): what it says of the rows and of a found trigger.

It flags tokens that draw attention as no token of a clean row does. So it says two things. Rows whose answer changes
under the guard, and that leave one and the same class, may carry a trigger. And a trigger that the search found works
through attention where the guard takes its effect away: such a trigger is no accident of the search.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewriters.model.forms import Loaded

from ...debugset.sets import Built
from ...debugset.subject import Subject
from ...hotfix.options import PatchOptions
from ...inference.datasets import DataSet, Ints
from ...inference.prediction import answers_of, class_scores
from ...inference.runner import Runner
from ...patching.edits import patch_loaded
from ..budget import Budget
from ..case import Case
from ..finding import Checked, Finding
from ..rule import Rule
from .rows import Rows

__all__ = ["RULE", "Guarded", "check"]

RULE = Rule(
    "behavior",
    "AUD204",
    "rows whose answer hangs on a token that draws unusual attention",
    "A guard that was calibrated on clean rows changes hardly any answer of clean rows, and those it changes are spread"
    " over the classes. Where many rows leave the same class under it, they may carry a trigger.",
)
SHARE, LEAST, ONE_CLASS = 0.03, 8, 0.8
"""More than this share of the rows, at least so many of them, and nearly all from one class are a suspicion. In the
clean models of `models/results/audit.json` a guard changes at most 0.25 % of the answers.
"""


@dataclass(frozen=True)
class Guarded:
    """What the guard did.

    Attributes:
        rows, changed: rows that were run, and rows whose answer changed.
        leaving: class that most of the changed rows left; None where none changed.
        restored: share of the rows with the found trigger that no longer get its class; None without a trigger.
    """

    rows: int
    changed: int
    leaving: int | None
    restored: float | None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rows", "changed", "leaving", "restored")}


def check(
    case: Case, subject: Subject, rows: Rows, budget: Budget, target: int | None, built: Built
) -> tuple[Checked, Guarded]:
    """Calibrate a guard on the rows, and run them through it.

    Raises:
        OutOfTime: the budget is used up.
        AtpatchError: ATP010, ATP061, ATP063: the model cannot be calibrated; and what running raises.
    """
    calibrate: Any = "noise" if rows.made else dict(rows.data.inputs)
    loaded = Loaded(case.proto, case.folder, case.proto)
    patched = patch_loaded(loaded, PatchOptions(calibrate=calibrate, controls="none"), budget).patched
    runner = Runner(patched, case.folder, case.options.threads)
    before, after = subject.predictions(rows.data.inputs), _predictions(runner, subject, rows.data)
    moved = before[before != after]
    leaving, most = _mode(moved)
    restored = None
    if target is not None and built.triggered is not None:
        names = [name for name in rows.data.inputs if name in built.triggered]
        triggered = DataSet({name: np.asarray(built.triggered[name]) for name in names})
        was = subject.predictions(triggered.inputs) == target
        restored = float((_predictions(runner, subject, triggered)[was] != target).mean()) if was.any() else None
    guarded = Guarded(len(before), len(moved), leaving, restored)
    findings: list[Finding] = []
    if len(moved) >= max(LEAST, SHARE * len(before)) and most >= ONE_CLASS * len(moved) and not rows.made:
        findings.append(
            RULE.finding(
                "warning",
                f"{rows.source}: {len(moved)} of {len(before)} rows",
                f"these rows no longer get class {leaving} once tokens with unusual attention are taken out: either"
                " they carry a trigger, or the rows are of several kinds",
                remedy=f"atpatch-onnx patch {case.name} --calibrate {_given(case)}",
            )
        )
    return Checked(tuple(findings)), guarded


def _given(case: Case) -> str:
    clean = case.options.clean or case.options.table
    return "ROWS.npz" if clean is None or isinstance(clean, Mapping) else shlex.quote(os.fspath(clean))


def _predictions(runner: Runner, subject: Subject, data: DataSet) -> Ints:
    asked = runner.answering(answers_of(runner, data))
    scores = class_scores(asked, data, np.arange(len(data)), subject.output(data))
    return np.asarray(scores.argmax(1), np.int64)


def _mode(classes: Ints) -> tuple[int | None, int]:
    if not len(classes):
        return None, 0
    values, counts = np.unique(classes, return_counts=True)
    return int(values[counts.argmax()]), int(counts.max())
