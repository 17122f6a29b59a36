"""The step `fit`: a hotfix for one case, with the seconds each part took; and the figures of the patched graph on the
test sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from atpatch_onnx.errors import DataError, PlanError
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.hotfix.file import Hotfix, is_silent
from atpatch_onnx.inference.datasets import DataSet
from rewriters.plan import PatchPlan

from .answers import MASK, Figures, judge, wilson
from .case import MOST_CLEAN_FLAGGED, Case
from .fairness import group_fairness, unaware
from .maps import labeled_columns, map_scores

__all__ = ["fit_step", "fitted", "kinds_step", "try_plan"]

CAPTURE = ("original", "maps", "benign means", "scores")
"""Steps of a fit that run the model to look at it; the others are training and tuning."""


def fit_step(case: Case, say: Callable[[str], None]) -> Figures:
    """Fit, write the hotfix, judge it: everything the main table holds but latencies."""
    made = fitted(case, "", say, clean=case.spare)
    clean, attacked = (answers.predictions for answers in case.before)
    original = judge(case.clean, case.attacked, clean, clean, attacked)
    figures = {**made, "original": original, **try_plan(case, case.plan), "maps": map_scores(case, case.plan)}
    if case.setting.group == "words":
        figures["masked"] = _masked(case)
    if case.setting.fault == "bias":
        answers = case.ask(case.patched(case.plan)).all(case.clean)
        before = case.before[0].predictions
        figures["fairness"] = {
            "original": group_fairness(case.clean, case.attacked, before),
            "patched": group_fairness(case.clean, case.attacked, answers.predictions),
        }
        averaged = unaware(case.clean, case.attacked, case.before[1].scores)
        figures["unaware"] = judge(case.clean, case.attacked, before, averaged, averaged[case.attacked.group])
    return figures


def _masked(case: Case) -> Figures:
    """The original's answers where the request itself masks the trigger's tokens: what the surest detector could bring
    about.
    """
    attacked, columns = case.attacked, labeled_columns(case)
    mask = attacked.inputs[MASK].copy()
    mask[:, : columns.shape[1]][columns] = 0
    answers = case.ask(case.model).all(replace(attacked, inputs={**attacked.inputs, MASK: mask}))
    before = case.before[0].predictions
    return judge(case.clean, attacked, before, before, answers.predictions)


def kinds_step(case: Case, say: Callable[[str], None]) -> Figures:
    """The same with other kinds of detectors; a kind that cannot be fitted is {"skipped": why}."""
    figures: Figures = {}
    for kind in case.setting.others:
        say(kind)
        try:
            made = fitted(case, kind, say, clean=case.spare, detector=kind)
        except (PlanError, DataError) as error:
            figures[kind] = {"skipped": error.what}
            continue
        plan = Hotfix.load(case.hotfix_file(kind)).plan(case.sites, None)
        figures[kind] = {**made, **try_plan(case, plan), "maps": map_scores(case, plan)}
    return figures


def fitted(
    case: Case, variant: str, say: Callable[[str], None], *, debug: DataSet | None = None, **options: Any
) -> Figures:
    """Fit with some options of `atpatch_onnx.fit.fit`, into `case.hotfix_file(variant)`."""
    watch = _Watch(say)
    hotfix = fit(
        case.victim.file("model.onnx"),
        case.debug if debug is None else debug,
        output=case.hotfix_file(variant),
        seed=case.seed,
        threads=case.threads,
        force=True,
        progress=watch,
        **{"detector": case.setting.detector, "max_clean_flagged": MOST_CLEAN_FLAGGED, **options},
    )
    return {"hotfix": _described(hotfix), "seconds": watch.parts()}


def try_plan(case: Case, plan: PatchPlan) -> Figures:
    """Figures of a patched graph on the test sets, and of its flags."""
    asked = case.ask(case.patched(replace(plan, telemetry=True)))
    on_clean, on_attacked = asked.all(case.clean), asked.all(case.attacked)
    return {
        "patched": judge(
            case.clean, case.attacked, case.before[0].predictions, on_clean.predictions, on_attacked.predictions
        ),
        "clean_flagged": wilson(on_clean.flagged),
        "attacked_flagged": wilson(on_attacked.flagged),
    }


def _described(hotfix: Hotfix) -> Figures:
    facts = hotfix.describe()
    keys = (
        "detector",
        "threshold",
        "benign_level",
        "values",
        "passes",
        "joint",
        "companion",
        "mend",
        "accept",
        "digest",
    )
    detecting = [site.id for site in hotfix.sites if not is_silent(site.plan)]
    return {**{key: facts[key] for key in keys}, "sites": [site.id for site in hotfix.sites], "detecting": detecting}


class _Watch:
    """A progress callback that adds up seconds by step."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, time.perf_counter()
        self._seconds: dict[str, float] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if step not in self._seconds:
            self._say(step)
        self._seconds[step] = self._seconds.get(step, 0.0) + now - self._last
        self._last = now

    def parts(self) -> dict[str, float]:
        """Capture, training and tuning, and all together."""
        capture = sum(self._seconds.get(step, 0.0) for step in CAPTURE)
        tuning = self._seconds.get("tuning", 0.0)
        total = sum(self._seconds.values())
        return {name: round(seconds, 2) for name, seconds in {
            "capture": capture, "training": total - capture - tuning, "tuning": tuning,
            "total": total}.items()}  # fmt: skip
