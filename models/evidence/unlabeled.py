"""Hotfixes without labels: from clean data alone, from no data, and from a trigger that inversion found."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atpatch_onnx.debugset.making import Made, Request, make
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.hotfix.options import PatchOptions
from atpatch_onnx.hotfix.plans import STATISTIC_THRESHOLD, untrained_plan
from atpatch_onnx.inference.datasets import load_dataset
from rewriters.finding.token_groups import token_groups

from .answers import Figures
from .case import Case, results
from .fitting import fitted, try_plan

__all__ = ["inversion_step", "oneclass_step", "statistic_step"]

MOST_FLAGGED = 0.015
"""Of clean requests.

Two percent are allowed, and what is met on a few hundred rows is missed by half as much again on others.
"""


def statistic_step(case: Case, say: Callable[[str], None]) -> Figures:
    """No data at all, in one pass and in two."""
    return {passes: try_plan(case, _statistic(case, passes)) for passes in ("one", "two")}


def oneclass_step(case: Case, say: Callable[[str], None]) -> Figures:
    """A detector of clean rows alone, two passes; the debugging set serves for choosing levels and sites, as in every
    fit.
    """
    made = fitted(
        case, "oneclass", say, detector="oneclass", clean=case.spare, max_clean_flagged=MOST_FLAGGED, passes="two"
    )
    return {**made, **try_plan(case, Hotfix.load(case.hotfix_file("oneclass")).plan(case.sites, None))}


def inversion_step(case: Case, say: Callable[[str], None]) -> Figures:
    """Which class inversion names on the victim, what a hotfix for the trigger it found does to the real one, and the
    same of the twin.
    """
    output = results() / f"{case.name}-inverted.npz"
    started = time.perf_counter()
    made = _inverted(case, case.victim.file("model.onnx"), output, say)
    seconds = round(time.perf_counter() - started, 1)
    figures: Figures = {
        "target": case.debug.target,
        "found": made.found,
        "towards": made.report["towards"],
        "asr": made.report.get("asr"),
        "seconds": seconds,
    }
    if made.found:
        fit = fitted(case, "inverted", say, debug=load_dataset(output), clean=case.spare)
        figures["hotfix"] = {**fit, **try_plan(case, Hotfix.load(case.hotfix_file("inverted")).plan(case.sites, None))}
    twin = case.victim.file("twin.onnx")
    if twin.is_file():
        answer = _inverted(case, twin, results() / f"{case.name}-inverted-twin.npz", say)
        figures["twin"] = {"found": answer.found, "towards": answer.report["towards"]}
    return figures


def _inverted(case: Case, model: Path, output: Path, say: Callable[[str], None]) -> Made:
    seen = set()

    def progress(step: str, done: int, total: int) -> None:
        if step not in seen:
            seen.add(step)
            say(f"inversion: {step}")

    request = Request(
        data=str(case.victim.file("spare.npz")), output=str(output), invert="all", seed=case.seed, threads=case.threads
    )
    return make(model, request, progress)


def _statistic(case: Case, passes: Any) -> Any:
    options = PatchOptions(threshold=STATISTIC_THRESHOLD, telemetry=True, passes=passes)
    return untrained_plan(case.sites, options, token_groups(case.model, case.sites))
