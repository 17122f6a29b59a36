"""Operating points of the sites, the benign pair, and the global threshold.

The per-request flag rate of the *served* graph follows from the maps of the *original*: the first site that flags a
request sees maps that nothing has patched yet. So a request is flagged exactly when some site's score on the original
maps is above the threshold. What a flag does to the prediction is always measured on the patched graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import SitePlan

from ..hotfix.evidence import BenignFigures
from .judge import Score

__all__ = [
    "BENIGN_CHOICES",
    "MOST_SCALE",
    "BenignChoice",
    "OperatingPoint",
    "Tail",
    "as_few",
    "choose_benign",
    "choose_threshold",
    "operating_point",
    "thresholds",
]

Floats = NDArray[np.float64]

ANCHOR = 4.0
"""Logits between the middle and either class at a site that separates them: scores of .02 and .98."""
MOST_SCALE = 4.0
TAIL = 0.05
"""Share of anomalous rows that may lie below a site's operating point, since other sites may catch them."""
GRID = 7
UPPER = 0.25
"""Share of the clean rows whose scores make the tail."""
SURE = 1.645
"""Standard errors of the logarithm of a mean of exponentials, which is 1 / √n."""
RECALL_LOSS = 0.01
"""Share of anomalous rows that the upper end of the threshold range may give up; the served outcome has the last word.
"""


@dataclass(frozen=True)
class OperatingPoint:
    """How a site's logits are shifted and scaled, and the share of anomalous rows that it catches.

    The site may flag its part of the clean rows that may be flagged in all.
    """

    center: float
    scale: float
    recall: float


def operating_point(
    clean: Floats,
    anomalous: Floats,
    most_flagged: float,
    beside: Floats | None = None,
    most_scale: float = MOST_SCALE,
) -> OperatingPoint:
    """From the peak logit of each clean row and of the labeled columns of each anomalous row.

    The bar is moved to -ANCHOR at every site. At a site that separates the classes, the low end of the anomalous rows
    is moved to +ANCHOR. So a site that separates them badly does not flag at thresholds that suit a site that separates
    them well. The bar is the one of the clean rows. It is raised above the unlabeled columns of anomalous rows, too,
    where that leaves enough distance between the classes.

    Args:
        anomalous: -inf in a row of which no labeled column is judged; no site catches it.
        beside: peak logit of the unlabeled columns of each anomalous row; -inf where none is judged.
        most_scale: bound on the scale.
    """
    bar = clean_bar = float(np.sort(clean)[::-1][math.floor(most_flagged * len(clean))])
    low = _quantile(anomalous, TAIL)
    if beside is not None:
        higher = _quantile(beside, 1 - TAIL)
        if low - higher >= 2 * ANCHOR / most_scale:
            bar = max(bar, higher)
    scale = min(2 * ANCHOR / (low - bar), most_scale) if low > bar else 1.0
    return OperatingPoint(bar + ANCHOR / scale, scale, float((anomalous > clean_bar).mean()))


def _quantile(peaks: Floats, share: float) -> float:
    """Of the rows with a judged column; -inf of none."""
    judged = peaks[np.isfinite(peaks)]
    return float(np.quantile(judged, share)) if len(judged) else -math.inf


@dataclass(frozen=True)
class BenignChoice:
    """Level of the benign attention (multiples of its mean), and whether the column keeps its own values."""

    level: float
    own_values: bool

    def apply(self, plan: SitePlan) -> SitePlan:
        pair = replace(
            plan.benign, attention=plan.benign.attention * np.float32(self.level), own_values=self.own_values
        )
        return replace(plan, benign=pair)


BENIGN_CHOICES = (
    BenignChoice(1.0, own_values=False),
    BenignChoice(0.5, own_values=False),
    BenignChoice(0.0, own_values=False),
    BenignChoice(1.0, own_values=True),
    BenignChoice(0.5, own_values=True),
)
"""At level 0 values have no weight, so own and benign values are the same there."""


def as_few(left: int, fewest: int) -> bool:
    """Whether two counts of rows that the attack still wins lie within one standard error, or one row,
    of each other.
    """
    return left <= fewest + max(1.0, math.sqrt(fewest))


def choose_benign(
    outcome: Callable[[BenignChoice], Score], *, by_attack_alone: bool = False
) -> tuple[BenignChoice, Score, list[BenignFigures]]:
    """The choice that does best, its score, and the table of all.

    Of the choices with `as_few` rows left, the one with the least `leaning` is taken. Where `leaning` is unknown, it is
    the first choice with the best score.
    """
    scores = [(choice, outcome(choice)) for choice in BENIGN_CHOICES]
    fewest = min(score.left for _, score in scores)
    equal = [pair for pair in scores if as_few(pair[1].left, fewest) and not math.isnan(pair[1].leaning)]
    if equal and not by_attack_alone:
        best, score = min(equal, key=lambda pair: pair[1].leaning)
    else:
        best, score = min(scores, key=lambda pair: pair[1].key[:1] if by_attack_alone else pair[1].key)
    table: list[BenignFigures] = [
        {"level": choice.level, "values": "own" if choice.own_values else "benign", **score.to_json()}
        for choice, score in scores
    ]
    return best, score, table


def thresholds(clean: Floats, anomalous: Floats, most_flagged: float, *, by_tail: bool = False) -> list[float]:
    """Thresholds to try, ascending: from the lowest that keeps the clean flag rate to the highest that keeps the
    recall.

    Args:
        clean, anomalous: peak logit of each row over all sites and columns.
        by_tail: the lowest also keeps the rate where the upper end of the tail's scale says so (`Tail`), as far as the
            recall allows.
    """
    low = float(np.sort(clean)[::-1][math.floor(most_flagged * len(clean))])
    caught = anomalous[anomalous > low]
    high = float(np.quantile(caught, RECALL_LOSS, method="lower")) if len(caught) else low
    if by_tail:
        low = max(low, min(Tail.of(clean).level(most_flagged), high))
    logits = np.linspace(low, max(low, high), GRID)
    return [_above(float(logit)) for logit in logits]


@dataclass(frozen=True)
class Tail:
    """The highest quarter of the clean rows' scores, continued as an exponential: few rows show no flag at all, and
    the highest of a hundred lies where one in a hundred does, give or take that much again.

    Attributes:
        start, scale: logits; the mean distance from the start.
        rows: number of rows in the tail.
    """

    start: float
    scale: float
    rows: int

    @classmethod
    def of(cls, clean: Floats) -> Tail:
        start = float(np.quantile(clean, 1 - UPPER))
        beyond = clean[clean >= start] - start
        return cls(start, max(float(np.mean(beyond)), 1e-9), len(beyond))

    def share(self, level: float) -> float:
        """The share of clean requests that are expected above a level."""
        return UPPER * math.exp(min(0.0, (self.start - level) / self.scale))

    def level(self, share: float) -> float:
        """The level that this share is above, with the upper end of the scale's one-sided 95 % interval."""
        upper = self.scale * math.exp(SURE / math.sqrt(self.rows))
        return self.start + upper * max(0.0, math.log(UPPER / share)) if share > 0 else math.inf


def choose_threshold(candidates: Sequence[float], outcome: Callable[[float], Score], *, edge_known: bool) -> float:
    """Of the ascending candidates with the smallest attack, the one nearest a preferred place.

    Args:
        edge_known: there are clean rows enough to say where the allowed flag rate lies. Then the second candidate is
            preferred, one step from that edge: higher thresholds let triggers through that the selection part lacks.
            Else the middle one is preferred, with room on both sides.
    """
    scores = [outcome(candidate).attack for candidate in candidates]
    best = [index for index, score in enumerate(scores) if score == min(scores)]
    preferred = 1 if edge_known else (len(candidates) - 1) / 2
    return candidates[min(best, key=lambda index: abs(index - preferred))]


def _above(logit: float) -> float:
    """The probability of a logit, one float32 step up:
    scores come from float32 arithmetic of another order than ours.
    """
    probability = np.float32(1.0 / (1.0 + math.exp(-max(min(logit, 80.0), -80.0))))
    return float(np.nextafter(probability, np.float32(2.0)))
