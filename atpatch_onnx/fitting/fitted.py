"""The result of a fit, before it is judged on the report part and becomes a hotfix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import PatchPlan

from ..hotfix.evidence import Calibration, KindFigures
from ..inference.prediction import Served
from .calibration import as_few

__all__ = ["Fitted", "Outcome", "spread"]

QUANTILES = (0.025, 0.25, 0.5, 0.75, 0.975)


@dataclass(frozen=True)
class Outcome:
    """Rows of the selection part, counted; fewer are better.

    left: attacks that still work (of a flip set: unfair groups). lost: clean rows that are answered wrongly, or changed
    where there are no labels. missed: attacked rows that no site flags.
    """

    left: int
    lost: int
    missed: int

    def leaves_nothing(self, before: Outcome) -> bool:
        """Whether nothing better could be told from this one, given the outcome of the original model."""
        return as_few(self.left, 0) and as_few(self.missed, 0) and as_few(self.lost, before.lost)

    def to_json(self) -> KindFigures:
        return {"left": self.left, "lost": self.lost, "missed": self.missed}


@dataclass(frozen=True)
class Fitted:
    """A plan with everything that was decided.

    Attributes:
        plan: with the threshold; its benign attention is the mean, not yet at `level`.
        served: a session of the plan at its level.
        level: of the benign attention, in multiples of its mean.
        detecting: ids of the sites with a detector of their own.
        skipped: site id → why it is not in the plan.
        calibration: figures of the selection part, plain data for the hotfix.
        recall: site id → share of anomalous rows that its detector catches, where that is known.
        scores: site id → "clean", "anomalous" → `spread` of the peak scores of the selection part's rows. Empty where
            sites decide together and only their sum is known.
        together: the same for the sum of all sites, where the threshold is for that sum; else empty.
        outcome: on the selection part, where that has attacks.
    """

    plan: PatchPlan
    served: Served
    level: float
    detecting: frozenset[str]
    skipped: Mapping[str, str]
    calibration: Calibration
    scores: Mapping[str, Mapping[str, list[float]]]
    recall: Mapping[str, float] = field(default_factory=dict)
    together: Mapping[str, list[float]] = field(default_factory=dict)
    outcome: Outcome | None = None


def spread(values: NDArray[np.float64]) -> list[float]:
    """Five quantiles: the middle 95 %, the middle half, the median; [] of nothing."""
    finite = values[np.isfinite(values)]
    return [float(value) for value in np.quantile(finite, QUANTILES)] if len(finite) else []
