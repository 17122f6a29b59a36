"""An audit as a value: the verdict, what it rests on, and the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .behavior import Behavior
from .case import Case
from .finding import Finding, NotTried
from .verdict import Verdict

__all__ = ["Audit", "Cut"]


@dataclass(frozen=True)
class Cut:
    """What `--cut` did.

    Attributes:
        output: file written; None where it was refused.
        removed: names of the nodes that were taken out.
        rows: rows on which both graphs give the same.
        why: why nothing was written; "" where it was.
        difference: largest difference on these rows, relative to the largest value; 0: equal bit for bit.
    """

    output: str | None
    removed: tuple[str, ...]
    rows: int
    why: str
    difference: float = 0.0

    def to_json(self) -> dict[str, Any]:
        keys = ("output", "rows", "why", "difference")
        return {**{name: getattr(self, name) for name in keys}, "removed": list(self.removed)}


@dataclass(frozen=True, eq=False)
class Audit:
    """Everything that an audit says.

    Attributes:
        case: the model and the options.
        verdict: with its sentence.
        facts: the file: digests, producer, versions.
        findings: of all checks, the gravest first.
        not_tried: checks that could not be made, and why.
        behavior: figures of the checks that ran the model.
        cut: what was taken out; None where nothing was asked for.
        seconds: time taken in all.
    """

    case: Case
    verdict: Verdict
    facts: Mapping[str, Any]
    findings: tuple[Finding, ...]
    not_tried: tuple[NotTried, ...]
    behavior: Behavior
    cut: Cut | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The keys that `audit --json` promises."""
        return {
            "verdict": self.verdict.word,
            "sentence": self.verdict.sentence,
            "rests_on": list(self.verdict.rests_on),
            "sure": self.verdict.sure,
            "model": dict(self.facts),
            "findings": [
                {
                    **{name: getattr(one, name) for name in ("check", "code", "severity", "where", "why", "remedy")},
                    "nodes": list(one.nodes),
                }
                for one in self.findings
            ],
            "not_tried": [{"check": one.check, "why": one.why} for one in self.not_tried],
            "behavior": self.behavior.to_json(),
            "cut": None if self.cut is None else self.cut.to_json(),
            "budget": {"minutes": self.case.options.budget, "seconds": round(self.seconds, 1)},
        }
