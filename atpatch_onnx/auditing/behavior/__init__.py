"""What a model does: search for a trigger, universal words, a guard from clean rows, loud sites."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...errors import AtpatchError
from ..budget import Budget, OutOfTime
from ..case import Case
from ..finding import Checked, Finding, NotTried
from ..rule import Rule
from . import cells, guard, inversion, loud, words
from .guard import Guarded
from .inversion import Searched
from .loud import Loudness
from .rows import Rows, rows_of, with_room
from .samples import Sample, samples_of
from .unfit import check_rows

__all__ = ["RULES", "Behavior", "check_behavior"]

RULES = (inversion.RULE, cells.RULE, words.RULE, guard.RULE, loud.RULE)
SHARES = {"loud": 0.2, "inversion": 0.6, "words": 0.65, "guard": 1.0}
"""Of the time that is left when a check begins."""


@dataclass
class Behavior:
    """What the checks found, and what a page can show.

    Attributes:
        rows: that were run; None where there are none.
        unfit: why the rows that the user gave cannot be used; "" where they can, or none were given.
        seconds: rule → time it took.
    """

    rows: Rows | None = None
    unfit: str = ""
    findings: list[Finding] = field(default_factory=list)
    not_tried: list[NotTried] = field(default_factory=list)
    searched: Searched | None = None
    samples: tuple[Sample, ...] = ()
    words: list[dict[str, Any]] = field(default_factory=list)
    guarded: Guarded | None = None
    loudness: list[Loudness] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def checked(self) -> Checked:
        return Checked(tuple(self.findings), tuple(self.not_tried))

    def to_json(self) -> dict[str, Any]:
        """The figures behind the findings, for programs."""
        return {
            "rows": None if self.rows is None else {"source": self.rows.source, "count": len(self.rows.data)},
            "inversion": None if self.searched is None else self.searched.classes,
            "words": self.words,
            "guard": None if self.guarded is None else self.guarded.to_json(),
            "loudness": [one.to_json() for one in self.loudness],
            "seconds": {code: round(seconds, 1) for code, seconds in self.seconds.items()},
        }


def check_behavior(case: Case) -> Behavior:
    """Apply every rule about what the model does, as far as data, extras and the budget allow."""
    found = Behavior()
    if not case.options.budget:
        found.not_tried += [rule.not_tried("the budget is 0 minutes, so the model was not run") for rule in RULES]
        return found
    try:
        subject = case.subject()
        rows = rows_of(case, subject)
        rows = rows if case.tokens is None else with_room(rows, subject)
        subject.scores({name: array[:1] for name, array in rows.data.inputs.items()})
        if not rows.made:
            check_rows(subject, rows.data)
    except AtpatchError as error:
        found.not_tried += [rule.not_tried(_reason(error)) for rule in RULES]
        found.unfit = error.what if case.options.gives_rows else ""
        return found
    found.rows = rows

    def loud_sites(budget: Budget) -> Checked:
        said, found.loudness = loud.check(case, rows, budget)
        return said

    def search(budget: Budget) -> Checked:
        said, found.searched = inversion.check(case, subject, rows, budget)
        return said

    def table(budget: Budget) -> Checked:
        said, found.searched = cells.check(case, subject, rows, budget)
        return said

    def scan(budget: Budget) -> Checked:
        said, found.words = words.check(case, subject, rows, budget)
        return said

    def guarded(budget: Budget) -> Checked:
        searched = found.searched or Searched("places")
        said, found.guarded = guard.check(case, subject, rows, budget, searched.target, searched.built)
        return said

    checks = [(loud.RULE, SHARES["loud"], loud_sites)]
    if cells.is_table(case, subject):
        # Gradients say nothing about codes of words, and a table is small enough to try its cells.
        checks += [(cells.RULE, SHARES["inversion"], table)]
    else:
        checks += [(inversion.RULE, SHARES["inversion"], search)]
        checks += [(words.RULE, SHARES["words"], scan)] if case.tokens is not None else []
    for rule, share, check in [*checks, (guard.RULE, SHARES["guard"], guarded)]:
        _one(case, found, rule, check, case.budget.part(share))
    if found.searched is not None and found.searched.target is not None:
        found.samples = samples_of(subject, found.searched.built, found.searched.target)
    return found


def _one(case: Case, found: Behavior, rule: Rule, check: Callable[[Budget], Checked], budget: Budget) -> None:
    """One check; a check that cannot be made is told, and the next one goes on."""
    started = time.monotonic()
    try:
        said = check(budget)
    except OutOfTime as reason:
        why = f"the budget of {case.options.budget:g} minutes is not enough ({reason}); give more with --budget"
        found.not_tried.append(rule.not_tried(why))
    except AtpatchError as error:
        found.not_tried.append(rule.not_tried(_reason(error)))
    else:
        found.findings += said.findings
        found.not_tried += said.not_tried
    found.seconds[rule.code] = time.monotonic() - started


def _reason(error: AtpatchError) -> str:
    return f"{error.what}; {error.fix} ({error.code})"
