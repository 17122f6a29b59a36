"""Trigger inversion over all classes: `debugset --invert all`, within a budget. Needs torch (extra `fit`)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ...debugset.sets import Built
from ...debugset.subject import Subject
from ...errors import EXTRA_MISSING
from ..budget import Budget, OutOfTime
from ..case import Case
from ..finding import Checked, Finding
from ..rule import Rule
from .rows import Rows, commands_for

__all__ = ["RULE", "Searched", "check"]

RULE = Rule(
    "behavior",
    "AUD201",
    "a class that a small trigger reaches, and no other class",
    "The smallest change that sends all rows to a class is about as large for every class of an ordinary model. For"
    " the class that a backdoor leads to it is much smaller. Small changes exist in models without a backdoor, too: so"
    " a class is only suspicious next to the others (Neural Cleanse, Wang et al., S&P 2019).",
)
STEPS = 200
LENGTHS = (1, 2)
"""Tokens of a trigger: longer ones are searched only where no single token is one. With three tokens nearly every text
of a clean model can be sent anywhere, and the classes no longer differ.
"""


@dataclass(frozen=True)
class Searched:
    """What the search found.

    Attributes:
        kind: "places" of a float input, "tokens", or "cells" of a table.
        classes: one line a class, as `debugset --json` gives them.
        target: the class with a backdoor; None without.
        built: clean and triggered rows of the class; empty without a backdoor.
    """

    kind: str
    classes: list[dict[str, Any]] = field(default_factory=list)
    target: int | None = None
    built: Built = field(default_factory=lambda: Built(None))


def check(case: Case, subject: Subject, rows: Rows, budget: Budget) -> tuple[Checked, Searched]:
    """Search a trigger towards every class.

    Raises:
        OutOfTime: the budget is not enough for all classes.
        AtpatchError: ATP051 (no torch), and what `debugset --invert` raises.
    """
    floats = any(value.dtype.kind == "f" and len(value.shape) > 1 for value in subject.inputs.values())
    built = _search(case, subject, rows, _Paced(budget, _count(subject, rows)), masks=floats)
    searched = Searched("places" if floats else "tokens", built.report["classes"], built.report.get("target"), built)
    guilty = [one for one in searched.classes if one["backdoor"]]
    return Checked(tuple(_finding(case, rows, one, searched) for one in guilty)), searched


def _search(case: Case, subject: Subject, rows: Rows, progress: _Paced, *, masks: bool) -> Built:
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise EXTRA_MISSING("trigger inversion needs torch", "pip install 'atpatch-onnx[fit]'") from error
    from ...debugset.inversion.mask_search import invert_masks
    from ...debugset.inversion.masks import Schedule
    from ...debugset.inversion.token_search import invert_tokens

    if case.options.threads is not None:
        torch.set_num_threads(case.options.threads)
    common: dict[str, Any] = {"seed": case.options.seed, "state_path": None, "progress": progress}
    if masks:
        return invert_masks(subject, rows.data, None, schedule=Schedule(steps=STEPS), **common)
    built = Built(None)
    for longest in LENGTHS:
        built = invert_tokens(subject, rows.data, None, longest=longest, exhaustive=False, word=rows.word, **common)
        if built.report["towards"]:
            break
    return built


def _count(subject: Subject, rows: Rows) -> int:
    return int(subject.scores({name: array[:1] for name, array in rows.data.inputs.items()}).shape[1])


class _Paced:
    """Progress that stops the search early, once the first class shows that the budget is not enough for all.

    Args:
        classes: number of classes to search.
    """

    def __init__(self, budget: Budget, classes: int) -> None:
        self._budget, self._classes = budget, classes
        self._started, self._seen = time.monotonic(), 0
        self._first = ""

    def __call__(self, step: str, done: int, total: int) -> None:
        self._budget(step, done, total)
        if not step.startswith("class "):
            return
        self._first = self._first or step
        if step == self._first and done == total and not self._seen:
            self._seen = 1
            needed = (time.monotonic() - self._started) * (self._classes - 1)
            if needed > self._budget.left:
                minutes = (needed + time.monotonic() - self._started) / 60
                raise OutOfTime(f"all {self._classes} classes take about {minutes:.0f} minutes")


def _finding(case: Case, rows: Rows, one: dict[str, Any], searched: Searched) -> Finding:
    target, trigger = one["class"], one["trigger"]
    if searched.kind == "places":
        places = trigger["places"]
        where = f"class {target}: {len(places)} place{'s' if len(places) > 1 else ''} of the input, " + " ".join(
            ",".join(map(str, place)) for place in places[:6]
        )
        what = f"changing {one['size']:.3g} places sends {one['success']:.0%} of the rows to class {target}"
    else:
        words = " ".join(map(str, trigger.get("words", trigger["tokens"])))
        where = f"class {target}: {words!r}"
        what = f"the tokens {words!r} send {one['success']:.0%} of the texts to class {target}"
    why = f"{what}; every other class needs far more"
    remedy = commands_for(case, rows, f"--invert {target}")
    # On random tokens a class means nothing, so what was found there is a suspicion.
    return RULE.finding("warning" if rows.made else "error", where, why, remedy=remedy)
