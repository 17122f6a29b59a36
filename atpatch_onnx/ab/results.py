"""What `analyze_log` concludes of each revision: values to print, to serialise and to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compare.metrics import Share
from .evidence import Evidence, Srm
from .intervals import Difference, McNemar, Rate
from .outcomes import Outcomes
from .rows import ARMS, Reading

__all__ = ["PERCENTILES", "Analysis", "Arm", "Drift", "Live", "Pairs", "Revision", "Tested"]

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Arm:
    """Requests assigned to one arm; rates are None where nothing is known."""

    requests: int
    samples: int
    units: int
    fallback: Rate | None
    reasons: Mapping[str, int]
    outcome: Rate | None
    wrong: Rate | None

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "samples": self.samples,
            "units": self.units,
            "fallback": _json(self.fallback),
            "reasons": dict(self.reasons),
            "outcome": _json(self.outcome),
            "wrong": _json(self.wrong),
        }


@dataclass(frozen=True)
class Tested:
    """One quantity of a live A/B: the interval for one look, and the evidence for any number of them.

    Attributes:
        path: ln e after each event, for the picture.
    """

    name: str
    difference: Difference
    evidence: Evidence
    path: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        return self.difference.to_json() | {"evidence": self.evidence.to_json()}


@dataclass(frozen=True)
class Live:
    """The unpaired comparison of arms, of a revision in mode "ab".

    Attributes:
        classes: class → how much more often units of the patched arm got it as their first answer.
    """

    srm: Srm
    crossed: int
    tested: tuple[Tested, ...]
    classes: Mapping[int, Difference]

    def to_json(self) -> dict[str, Any]:
        return {
            "srm": self.srm.to_json(),
            "crossed_units": self.crossed,
            "differences": {tested.name: tested.to_json() for tested in self.tested},
            "classes": {str(name): found.to_json() for name, found in self.classes.items()},
        }


@dataclass(frozen=True)
class Drift:
    """Units whose first move that touches a class went into it or out of it; without a drift either is equally likely.

    Attributes:
        into, out: units.
        p_value: exact McNemar, adjusted for the number of classes (Holm).
        evidence: at ALPHA over the number of classes.
    """

    into: int
    out: int
    p_value: float
    evidence: Evidence

    def to_json(self) -> dict[str, Any]:
        return {"into": self.into, "out": self.out, "p": self.p_value, "evidence": self.evidence.to_json()}


@dataclass(frozen=True)
class Pairs:
    """The paired comparison, of requests that both arms ran on.

    Attributes:
        states: what became of the pairs, by request.
        apart: samples on which the arms disagree, at the end of the log.
        always: the same over units' first pairs, as a confidence sequence that holds at every look: its `low` and `high`.
        moves: (original's class, patched's) → samples, the most frequent first.
        classes: size of the whole table of moves, (original's class, patched's) → samples, agreements included.
        table: samples by (original right, patched right); empty without labels.
        mcnemar, verdict: whether the patched arm is right more often, on each unit's first pair in which exactly one arm is.
        difference: quantiles of the largest difference of outputs.
        ratio: median of latency, patched over original; None without.
    """

    states: Mapping[str, int]
    apart: Rate | None
    always: Evidence
    moves: Mapping[tuple[int, int], int]
    classes: Mapping[tuple[int, int], int]
    drift: Mapping[int, Drift]
    table: Mapping[tuple[bool, bool], int]
    mcnemar: McNemar | None
    verdict: Evidence | None
    path: NDArray[np.float64]
    difference: Mapping[str, float] | None
    ratio: float | None

    @property
    def wrong(self) -> tuple[Share, Share] | None:
        """Samples on which the original and the patched arm are wrong; None without labels."""
        count = sum(self.table.values())
        if not count:
            return None
        misses = [sum(hits for right, hits in self.table.items() if not right[arm]) for arm in (0, 1)]
        return Share(misses[0], count), Share(misses[1], count)

    def to_json(self) -> dict[str, Any]:
        always = {"units": self.always.patched + self.always.original, "low": self.always.low, "high": self.always.high}
        labelled = {
            "both_right": self.table.get((True, True), 0),
            "only_original_right": self.table.get((True, False), 0),
            "only_patched_right": self.table.get((False, True), 0),
            "both_wrong": self.table.get((False, False), 0),
        }
        return {
            "requests": dict(self.states),
            "disagreement": _json(self.apart),
            "disagreement_any_time": always,
            "moves": [{"from": before, "to": after, "count": count} for (before, after), count in self.moves.items()],
            "drift": {str(name): found.to_json() for name, found in self.drift.items()},
            "wrong": {arm: share.to_json() for arm, share in zip(ARMS, self.wrong, strict=True)} if self.wrong else None,
            "labels": labelled if self.table else None,
            "mcnemar": self.mcnemar.to_json() if self.mcnemar else None,
            "evidence": self.verdict.to_json() if self.verdict else None,
            "difference": dict(self.difference) if self.difference else None,
            "latency_ratio_median": self.ratio,
        }


@dataclass(frozen=True)
class Revision:
    """One revision of an experiment.

    Attributes:
        flagged: samples that the patch flagged, of those it ran on.
        latency: "original", "patched", "total" → percentile → milliseconds, and "count".
        minutes: minute of the epoch → (samples with flags known, flagged, pairs, disagreements).
        problems: one line each; what is in `invalid` breaks the comparison of arms.
    """

    experiment: str
    revision: int
    mode: str
    weight: float
    start: datetime
    end: datetime
    outside: int
    paused: int
    arms: Mapping[str, Arm]
    flagged: Rate | None
    live: Live | None
    pairs: Pairs | None
    latency: Mapping[str, Mapping[str, float]]
    minutes: Mapping[int, Sequence[int]]
    invalid: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def requests(self) -> int:
        return self.outside + self.paused + sum(arm.requests for arm in self.arms.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "revision": self.revision,
            "mode": self.mode,
            "weight": self.weight,
            "from": self.start.isoformat(),
            "to": self.end.isoformat(),
            "requests": self.requests,
            "outside": self.outside,
            "paused": self.paused,
            "valid": not self.invalid,
            "problems": [*self.invalid, *self.problems],
            "arms": {name: arm.to_json() for name, arm in self.arms.items()},
            "flagged": _json(self.flagged),
            "ab": self.live.to_json() if self.live else None,
            "pairs": self.pairs.to_json() if self.pairs else None,
            "latency_ms": {name: dict(found) for name, found in self.latency.items()},
        }


@dataclass(frozen=True)
class Analysis:
    """A whole log."""

    reading: Reading
    outcomes: Outcomes | None
    revisions: tuple[Revision, ...]

    @property
    def valid(self) -> bool:
        return not any(revision.invalid for revision in self.revisions)

    def to_json(self) -> dict[str, Any]:
        reading = self.reading
        return {
            "log": {
                "files": [str(file) for file in reading.files],
                "lines": reading.lines,
                "bad": reading.bad,
                "first_bad": reading.first_bad,
                "torn": reading.torn,
            },
            "outcomes": self.outcomes.to_json() if self.outcomes else None,
            "valid": self.valid,
            "revisions": [revision.to_json() for revision in self.revisions],
        }


def _json(value: Rate | None) -> dict[str, Any] | None:
    return value.to_json() if value else None
