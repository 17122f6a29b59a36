"""What `analyze_log` concludes of each revision: values to print, to serialize and to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..decisions import Reading
from ..statistics.units import Rate
from .headline import headline
from .live import Live
from .outcomes import Outcomes
from .paired import Bounds, Pairs

__all__ = ["PERCENTILES", "Analysis", "Arm", "Revision"]

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Arm:
    """Requests assigned to one arm; rates are None where nothing is known."""

    requests: int
    samples: int
    units: int
    fallback: Rate | None
    reasons: Mapping[str, int]
    failures: Mapping[str, int]
    outcome: Rate | None
    wrong: Rate | None

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "samples": self.samples,
            "units": self.units,
            "fallback": _json(self.fallback),
            "reasons": dict(self.reasons),
            "failures": dict(self.failures),
            "outcome": _json(self.outcome),
            "wrong": _json(self.wrong),
        }


@dataclass(frozen=True)
class Revision:
    """One revision of an experiment.

    Attributes:
        flagged: samples that the patch flagged, of those it ran on; `flag_bounds`: of those it should have run on.
        alarms: samples that raise the patch's alarm, of those where that is known; None in logs without alarms.
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
    flag_bounds: Bounds | None
    alarms: Rate | None
    live: Live | None
    pairs: Pairs | None
    latency: Mapping[str, Mapping[str, float]]
    minutes: Mapping[int, Sequence[int]]
    invalid: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def requests(self) -> int:
        return self.outside + self.paused + sum(arm.requests for arm in self.arms.values())

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        return headline(invalid=bool(self.invalid), live=self.live, pairs=self.pairs, requests=self.requests)

    @property
    def comparable_latency(self) -> Mapping[str, Mapping[str, float]]:
        """`latency` without that of shadow runs, which wait in a queue on threads of low priority."""
        return {name: found for name, found in self.latency.items() if not (self.pairs and name == "patched")}

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
            "verdict": self.headline,
            "flagged": _json(self.flagged),
            "flagged_bounds": self.flag_bounds.to_json() if self.flag_bounds else None,
            "alarms": _json(self.alarms),
            "ab": self.live.to_json() if self.live else None,
            "pairs": self.pairs.to_json() if self.pairs else None,
            "latency_ms": {name: dict(found) for name, found in self.latency.items()},
        }


@dataclass(frozen=True)
class Analysis:
    """A whole decision log, judged.

    Attributes:
        reading: what the log files held, and what of them could not be used.
        outcomes: what is known of the requests later; None where none were given.
        revisions: the arms against each other, one entry for each experiment and revision.
    """

    reading: Reading
    outcomes: Outcomes | None
    revisions: tuple[Revision, ...]

    @property
    def valid(self) -> bool:
        """Whether the comparison is valid in all revisions; a split that is not as it was set makes it invalid."""
        return not any(revision.invalid for revision in self.revisions)

    @property
    def newest(self) -> Revision:
        """The revision that ends last."""
        return max(self.revisions, key=lambda revision: revision.end)

    def to_json(self) -> dict[str, Any]:
        """The keys that `ab analyze --json` promises."""
        reading = self.reading
        return {
            "log": {
                "files": [str(file) for file in reading.files],
                "lines": reading.lines,
                "bad": reading.bad,
                "first_bad": reading.first_bad,
                "torn": reading.torn,
                "duplicates": reading.duplicates,
                "refused": dict(reading.refused.most_common()),
            },
            "outcomes": self.outcomes.to_json() if self.outcomes else None,
            "valid": self.valid,
            "revisions": [revision.to_json() for revision in self.revisions],
        }


def _json(value: Rate | None) -> dict[str, Any] | None:
    return value.to_json() if value else None
