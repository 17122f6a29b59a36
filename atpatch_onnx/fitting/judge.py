"""Counts predictions before and after a patch: attack success, recovery, accuracy, flags, with Wilson intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..hotfix.evidence import Bound, DoseFigures, FigureName, Figures, Rate, Report, ScoreFigures
from ..inference.datasets import DataSet, Ints
from ..statistics.proportions import Share
from .splits import Part

__all__ = ["Judge", "Score", "advice", "against_bound", "bound_in_words", "rate", "ruined_in_words"]

LEAST_ATTACK = 0.1
"""Where a smaller share of the attacks works on the original, the trigger is probably not of this model."""
CHANCE = 0.05
"""Largest p-value. Five rows rescued and none lost are just enough."""
RUINED = 0.5
"""Share of attacked rows: with fewer answered like their partners, and fewer attacks left, most answers are just wrong.
"""


def rate(hits: ArrayLike) -> Rate:
    """k of n with the 95 % Wilson interval, hits (n,) bool; an empty sample has no rate."""
    share = Share.of(hits)
    if not share.count:
        return {"k": 0, "n": 0}
    low, high = share.interval
    return {"k": share.hits, "n": share.count, "rate": share.value, "low": low, "high": high}


def against_bound(found: Rate, allowed: float) -> Bound:
    """Compare a rate and its interval with a bound: "met", "missed", or "not shown" where the interval contains the
    bound or is unknown.
    """
    if "rate" in found and found["low"] > allowed:
        return {"allowed": allowed, "verdict": "missed"}
    met = "rate" in found and found["high"] <= allowed
    return {"allowed": allowed, "verdict": "met" if met else "not shown"}


def advice(before: Figures) -> str | None:
    """What to do where no hotfix helps, from the figures of the original (`Judge.figures`); None: the advice of the
    error catalog.
    """
    keys: tuple[FigureName, ...] = ("unfair", "asr_star", "recovered")
    key = next((key for key in keys if key in before and before[key]["n"]), None)
    if key is None:
        return None
    attack = before[key]
    works = attack["n"] - attack["k"] if key == "recovered" else attack["k"]
    if works > LEAST_ATTACK * attack["n"]:
        return None
    what = "the attribute" if key == "unfair" else "the trigger"
    return (
        f"{what} changes only {works} of {attack['n']} answers of this model, so there is little to stop: check that it"
        " belongs to this model, and that the rows contain it"
    )


def bound_in_words(report: Report) -> str:
    """What the held-back rows show about the allowed share of flagged clean requests; empty where the bound is met or
    was not recorded.
    """
    bound, flagged = report.get("clean_flagged_bound"), report["clean_flagged"]
    if bound is None or bound["verdict"] == "met" or "rate" not in flagged:
        return ""
    found = f"{flagged['k']} of {flagged['n']} held-back clean requests are flagged"
    interval = f"95 % interval {flagged['low']:.1%} to {flagged['high']:.1%}"
    if bound["verdict"] == "missed":
        return (
            f"{found} ({interval}): more than the allowed {bound['allowed']:.3g}. Give more clean rows, or allow more."
        )
    return (
        f"{found} ({interval}): too few rows to show that it is at most the allowed {bound['allowed']:.3g}. More"
        " clean rows could show it."
    )


def ruined_in_words(report: Report) -> str:
    """What to do where most attacks are stopped, but most attacked requests get a wrong answer all the same; else
    empty.
    """
    after = report["after"]
    if "asr_star" not in after or "recovered" not in after:
        return ""
    left, recovered = after["asr_star"], after["recovered"]
    if "rate" not in left or "rate" not in recovered or max(left["rate"], recovered["rate"]) > RUINED:
        return ""
    return (
        f"{left['k']} of {left['n']} attacks still work, but only {recovered['k']} of {recovered['n']} triggered"
        " requests are answered like their clean partners: the input is lost with the trigger, as where the trigger is"
        " all over it. Reject flagged requests (patch --telemetry adds the flags) rather than use their answers."
    )


@dataclass(frozen=True)
class Score:
    """How well a patch does on one part; compare with `key`, smaller is better.

    Attributes:
        attack: share of unfair groups in a flip set; else ASR* where the target is known; else the share of anomalous
            rows that do not get their clean partner's prediction.
        astray: share of unfair groups in a flip set, else of rows that do not get their clean partner's prediction.
        lost: share of clean rows that are wrong (with labels) or changed (without labels).
        left: number of rows (or groups) that `attack` counts.
        leaning: how probable the attack's success still is; it shows differences between patches long before a
            prediction changes. Mean over the same rows of the probability of the target, or of all classes but the
            partner's; nan in a flip set and where no probabilities were given.
    """

    attack: float
    astray: float
    lost: float
    left: int = 0
    leaning: float = math.nan
    lost_rows: int = 0

    @property
    def key(self) -> tuple[float, float, float]:
        return (self.attack, self.astray, self.lost)

    def to_json(self) -> ScoreFigures:
        figures: ScoreFigures = {"attack": self.attack, "astray": self.astray, "lost": self.lost, "left": self.left}
        if not math.isnan(self.leaning):
            figures["leaning"] = self.leaning
        return figures


class Judge:
    """Compares predictions of a patched model with those of the original.

    Args:
        original: predictions of the original model on all rows of `data`.
    """

    def __init__(self, data: DataSet, original: Ints) -> None:
        assert data.pair is not None
        self.original = original
        self._data, self._pair = data, data.pair
        self._unmodified = np.ones(len(data), np.bool_)
        # The first row of a group is the original request; the others have another value of the attribute.
        if data.group is not None:
            self._unmodified[:] = False
            self._unmodified[np.unique(data.group, return_index=True)[1]] = True

    def score(self, part: Part, predictions: Ints, probabilities: NDArray[np.floating[Any]] | None = None) -> Score:
        """Score predictions (N,) and probabilities (N, C) on the rows of one part."""
        attack, astray, kept = (count(part, predictions) for count in (self._attack, self._astray, self._kept))
        leaning = math.nan if probabilities is None else self._leaning(part, probabilities)
        return Score(_mean(attack), _mean(astray), 1.0 - _mean(kept), int(attack.sum()), leaning, int((~kept).sum()))

    def helped(self, part: Part, predictions: Ints) -> bool:
        """Whether significantly more rows were rescued from the attack than lost to it (one-sided exact McNemar)."""
        from scipy.stats import binomtest

        before, after = self._attack(part, self.original), self._attack(part, predictions)
        rescued, lost = int((before & ~after).sum()), int((~before & after).sum())
        return rescued > 0 and bool(binomtest(rescued, rescued + lost, alternative="greater").pvalue < CHANCE)

    def working(self, part: Part, predictions: Ints) -> Ints:
        """Rows of attacks that still work; of a set without groups."""
        rows, target = self._open(part), self._data.target
        works = predictions[rows] != self._twin(rows) if target is None else predictions[rows] == target
        return np.asarray(rows[works], np.int64)

    def figures(self, part: Part, predictions: Ints) -> Figures:
        """Rates of one part under the given predictions (those of the original give the figures before).

        Accuracy and changed predictions are counted on clean rows. In a flip set only rows that no value of the
        attribute changes are clean; there all original requests count, also those that a fix has to change.
        """
        figures: Figures = {}
        real = part.clean if self._data.group is None else part.rows[self._unmodified[part.rows]]
        if self._data.group is not None:
            figures["unfair"] = rate(self._unfair(part, predictions))
        else:
            figures["recovered"] = rate(~self._astray(part, predictions))
        if self._data.target is not None:
            figures["asr"] = rate(predictions[part.anomalous] == self._data.target)
            star = self._attack_star(part, predictions)
            if star is not None:
                figures["asr_star"] = rate(star)
        if self._data.labels is not None:
            figures["accuracy"] = rate(predictions[real] == self._data.labels[real])
        figures["clean_changed"] = rate(predictions[real] != self.original[real])
        return figures

    def by_dose(self, part: Part, predictions: Ints, flagged: NDArray[np.bool_]) -> dict[str, DoseFigures]:
        """Number of copies of the trigger → figures of the rows with so many; empty where the set does not say.

        Args:
            flagged: (N,) whether any site flags the row.
        """
        found: dict[str, DoseFigures] = {}
        doses = np.zeros(len(part.anomalous), np.int64) if self._data.dose is None else self._data.dose[part.anomalous]
        for copies in np.unique(doses[doses > 0]).tolist():
            rows = Part(part.clean[:0], part.anomalous[doses == copies])
            found[str(copies)] = {
                "before": rate(self._attack(rows, self.original)),
                "after": rate(self._attack(rows, predictions)),
                "flagged": rate(flagged[rows.anomalous]),
            }
        return found

    def _twin(self, rows: Ints) -> Ints:
        """The original's prediction for the clean partner; without a partner the row's label; without a label -1."""
        pair = self._pair[rows]
        own = np.full(len(rows), -1, np.int64) if self._data.labels is None else self._data.labels[rows]
        return np.where(pair >= 0, self.original[pair], own)

    def _attack(self, part: Part, predictions: Ints) -> NDArray[np.bool_]:
        if self._data.group is not None:
            return self._unfair(part, predictions)
        star = self._attack_star(part, predictions)
        return self._astray(part, predictions) if star is None else star

    def _unfair(self, part: Part, predictions: Ints) -> NDArray[np.bool_]:
        """For each group with anomalous rows: whether its rows get different predictions."""
        assert self._data.group is not None
        _, member = np.unique(self._data.group[part.anomalous], return_inverse=True)
        low, high = np.full(member.max(initial=-1) + 1, np.iinfo(np.int64).max), np.full(member.max(initial=-1) + 1, -1)
        np.minimum.at(low, member, predictions[part.anomalous])
        np.maximum.at(high, member, predictions[part.anomalous])
        return np.asarray(low != high)

    def _astray(self, part: Part, predictions: Ints) -> NDArray[np.bool_]:
        if self._data.group is not None:
            return self._unfair(part, predictions)
        twin = self._twin(part.anomalous)
        known = twin >= 0
        return np.asarray(predictions[part.anomalous][known] != twin[known])

    def _attack_star(self, part: Part, predictions: Ints) -> NDArray[np.bool_] | None:
        """Whether rows whose clean twin is not predicted as the target get the target; None without a target or such
        rows."""
        rows, target = self._open(part), self._data.target
        return np.asarray(predictions[rows] == target) if target is not None and len(rows) else None

    def _open(self, part: Part) -> Ints:
        """Anomalous rows whose clean twin is known, and where there is a target, is not predicted as that."""
        twin, target = self._twin(part.anomalous), self._data.target
        return part.anomalous[(twin >= 0) & (True if target is None else twin != target)]

    def _leaning(self, part: Part, probabilities: NDArray[np.floating[Any]]) -> float:
        if self._data.group is not None:
            return math.nan
        rows, target = self._open(part), self._data.target
        if target is None:
            return _mean(1 - probabilities[rows, self._twin(rows)])
        return _mean(probabilities[rows, target])

    def _kept(self, part: Part, predictions: Ints) -> NDArray[np.bool_]:
        if self._data.labels is None:
            return np.asarray(predictions[part.clean] == self.original[part.clean])
        # In a flip set anomalous rows count too: both rows of an unfair pair have the true label.
        rows = part.clean if self._data.group is None else part.rows
        return np.asarray(predictions[rows] == self._data.labels[rows])


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0
