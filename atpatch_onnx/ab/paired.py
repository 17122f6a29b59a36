"""What `analyze_log` concludes of requests that both arms ran on, and of those on which they should have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decisions import ARMS
from ..statistics.proportions import Share
from ..statistics.sequential import Evidence
from ..statistics.units import McNemar, Rate

__all__ = ["Bounds", "Drift", "Pairs"]


@dataclass(frozen=True)
class Bounds:
    """A share of all samples that should be there, where some are missing: those may hold no hit, or only hits.

    Attributes:
        missing: samples; whether one is missing depends on what it is (flagged ones take longer), so the others say
            nothing about them.
        least, most: the share with none and with all of the missing samples as hits, with an interval each.
    """

    missing: int
    least: Rate
    most: Rate

    def to_json(self) -> dict[str, Any]:
        return {
            "missing": self.missing,
            "count": self.least.share.count,
            "low": self.least.share.value,
            "high": self.most.share.value,
            "interval_low": self.least.low,
            "interval_high": self.most.high,
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
        states: how the shadow runs ended, by request.
        apart: samples on which the arms disagree, at the end of the log.
        bounds: the same over all pairs that should be there; None where no output has class scores.
        always: disagreement over units' first pairs, as a confidence sequence that holds at every look: its `low` and
            `high`.
        always_bounds: low and high of the same, if no missing pair were a disagreement, and if all were.
        moves: (original's class, patched's) → samples, the most frequent first.
        classes: size of the whole table of moves, (original's class, patched's) → samples, agreements included.
        table: samples by (original right, patched right); empty without labels.
        mcnemar, verdict: whether the patched arm is right more often, on each unit's first pair in which exactly one
            arm is.
        difference: quantiles of the largest difference of outputs.
        not_finite: samples whose difference is no finite number, and that are not among those.
    """

    states: Mapping[str, int]
    apart: Rate | None
    bounds: Bounds | None
    always: Evidence
    always_bounds: tuple[float, float]
    moves: Mapping[tuple[int, int], int]
    classes: Mapping[tuple[int, int], int]
    drift: Mapping[int, Drift]
    table: Mapping[tuple[bool, bool], int]
    mcnemar: McNemar | None
    verdict: Evidence | None
    path: NDArray[np.float64]
    difference: Mapping[str, float] | None
    not_finite: int

    @property
    def due(self) -> int:
        """Requests that should have given a pair."""
        return sum(self.states.values())

    @property
    def lost(self) -> int:
        """Those of them that gave no pair."""
        return self.due - self.states.get("compared", 0)

    @property
    def settled(self) -> bool | None:
        """Whether the verdict on which arm is right would hold even if all missing samples were against it; None
        without a verdict.
        """
        if self.verdict is None or not self.verdict.decided:
            return None
        lead = abs(self.table.get((False, True), 0) - self.table.get((True, False), 0))
        return self.bounds is None or lead > self.bounds.missing

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
        labeled = {
            "both_right": self.table.get((True, True), 0),
            "only_original_right": self.table.get((True, False), 0),
            "only_patched_right": self.table.get((False, True), 0),
            "both_wrong": self.table.get((False, False), 0),
        }
        return {
            "requests": dict(self.states),
            "disagreement": self.apart.to_json() if self.apart else None,
            "disagreement_bounds": self.bounds.to_json() if self.bounds else None,
            "disagreement_any_time": always | {"bound_low": self.always_bounds[0], "bound_high": self.always_bounds[1]},
            "moves": [{"from": before, "to": after, "count": count} for (before, after), count in self.moves.items()],
            "drift": {str(name): found.to_json() for name, found in self.drift.items()},
            "wrong": {arm: share.to_json() for arm, share in zip(ARMS, self.wrong, strict=True)}
            if self.wrong
            else None,
            "labels": labeled if self.table else None,
            "mcnemar": self.mcnemar.to_json() if self.mcnemar else None,
            "evidence": self.verdict.to_json() if self.verdict else None,
            "difference": dict(self.difference) if self.difference else None,
            "difference_not_finite": self.not_finite,
            # Shadow runs wait in a queue on threads of low priority: their latency says nothing about the arms. `bench`
            # compares them.
            "latency_ratio_median": None,
        }
