"""Candidates with what the served graph does on the selection part: while they are compared, and the one chosen."""

from __future__ import annotations

from dataclasses import dataclass

from ..hotfix.evidence import BenignFigures, Calibration, ScoreFigures
from ..inference.prediction import Served
from .calibration import BenignChoice
from .fitted import Outcome
from .judge import Score
from .site_selection import Candidate

__all__ = ["Scored", "Tuned"]


@dataclass(frozen=True)
class Tuned:
    """The result. evidence: plain data for the hotfix's `calibration`; outcome: of the selection part."""

    candidate: Candidate
    choice: BenignChoice
    threshold: float
    served: Served
    evidence: Calibration
    outcome: Outcome


@dataclass(frozen=True)
class Scored:
    """A candidate at the middle of its thresholds, with the best benign pair and the table of all pairs."""

    candidate: Candidate
    choice: BenignChoice
    score: Score
    table: list[BenignFigures]
    missed: int
    elsewhere: int = 0
    """`short`, added up over all thresholds. Of two that are equally good at their best threshold, the one with fewer
    failures elsewhere depends less on the threshold.
    """

    @property
    def short(self) -> int:
        """Attacks that still work, plus attacked rows that no site flags: these may work on other data."""
        return self.score.left + self.missed

    def to_json(self) -> ScoreFigures:
        return {**self.score.to_json(), "missed": self.missed, "elsewhere": self.elsewhere}
