"""`--assert`: bounds on figures of a comparison, such as "asr_star<=0.01".

Only NAME, an operator and a number are evaluated.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BAD_OPTION
from .figures import FIGURES

__all__ = ["PAIRED", "Assertion", "check", "parse"]

PAIRED = {
    "accuracy_drop": "accuracy of the original minus that of the patched graph",
    "accuracy_drop_low": "lower end of its 95 % interval",
    "accuracy_drop_high": "upper end of its 95 % interval",
    "changed": "clean rows with another prediction, counted",
    "changed_share": "the same as a share",
    "agreement": "share of clean rows with the same prediction",
    "lost": "clean rows that were right and are wrong",
    "gained": "clean rows that were wrong and are right",
    "mcnemar_p": "of the exact McNemar test on these",
    "attack_stopped": "triggered rows that fooled the original but do not fool the patched graph",
    "attack_new": "triggered rows that fool only the patched graph",
    "attack_mcnemar_p": "of the exact McNemar test on these",
    "unfair_stopped": "groups of the flip set that were unfair and are fair",
    "unfair_new": "groups of the flip set that were fair and are unfair",
    "unfair_mcnemar_p": "of the exact McNemar test on these",
    "identical_share": "unflagged clean rows whose outputs are bit-identical",
    "max_difference": "greatest absolute difference of any output on clean rows",
    "latency_ratio": "median ratio patched / original of single clean requests",
    "flagged_latency_ratio": "median ratio patched / original of single flagged requests",
    "step_ratio": "median ratio patched / original of single decode steps",
}

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FORM = re.compile(
    rf"\s*(?:(?P<graph>[^<>=!]+)\.)?(?P<name>\w+)\s*(?P<sign>[<>=!]=|[<>])\s*(?P<number>{_NUMBER})\s*(?P<percent>%?)\s*"
)


@dataclass(frozen=True)
class Assertion:
    """A bound on one figure.

    Attributes:
        text: as it was given.
        graph: whose figure: "patched" unless the name has another before a dot.
        name: a key of `FIGURES` or `PAIRED`.
        sign: an operator.
        bound: the number; a share where it was given in per cent.
    """

    text: str
    graph: str
    name: str
    sign: str
    bound: float

    def holds(self, value: float) -> bool:
        return _OPERATORS[self.sign](value, self.bound)


def parse(text: str) -> Assertion:
    """Read "NAME<=NUMBER" or "GRAPH.NAME<=NUMBER"; a number may end in %.

    Raises:
        AtpatchError: ATP060 where it is not of that form, or no figure has that name.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise BAD_OPTION(
            f"{text!r} is no assertion",
            "write NAME, one of <= >= < > == !=, and a number: 'asr_star<=0.01' or 'asr_star<=1%'",
        )
    name = form["name"]
    if name not in FIGURES and name not in PAIRED:
        raise BAD_OPTION(f"no figure is called {name!r}", f"name one of {', '.join([*FIGURES, *PAIRED])}")
    bound = float(form["number"]) / (100 if form["percent"] else 1)
    return Assertion(text.strip(), form["graph"] or "patched", name, form["sign"], bound)


def check(assertion: Assertion, values: Mapping[str, Mapping[str, float]]) -> tuple[bool, float]:
    """Whether a bound holds, and the figure itself.

    Args:
        values: graph → figure → value, without what is not known.

    Raises:
        AtpatchError: ATP060 where the run has no such graph or the figure is not known: no bound holds without data.
    """
    if assertion.graph not in values:
        raise BAD_OPTION(
            f"{assertion.text!r}: no graph is called {assertion.graph!r}", f"name one of {', '.join(values)}"
        )
    known = values[assertion.graph]
    if assertion.name not in known:
        raise BAD_OPTION(
            f"{assertion.text!r}: {assertion.name} is not known of {assertion.graph}",
            f"give the data that it needs, or name one of {', '.join(known)}",
        )
    return assertion.holds(known[assertion.name]), known[assertion.name]
