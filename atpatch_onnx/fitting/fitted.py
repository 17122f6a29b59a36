"""The result of a fit, before it is judged on the report part and becomes a hotfix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rewriters.model import io as model_io
from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..hotfix.evidence import Calibration, Evidence, KindFigures
from ..hotfix.file import Calls, Hotfix, HotfixSite
from ..inference.prediction import Served
from .calibration import as_few
from .request_lengths import seen_lengths
from .training import Context

__all__ = ["Fitted", "Outcome", "best", "make_hotfix", "spread"]

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


def best(outcomes: Sequence[Outcome]) -> int:
    """Index of the outcome with the fewest attacks left; of those the fewest clean rows lost; of those the fewest
    missed; of those the first, which is the cheapest. At each step one stays that is `as_few`; not empty.
    """
    left = list(enumerate(outcomes))
    for step in ("left", "lost", "missed"):
        fewest = min(getattr(one, step) for _, one in left)
        left = [(index, one) for index, one in left if as_few(getattr(one, step), fewest)]
    return left[0][0]


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


def make_hotfix(
    fitted: Fitted,
    context: Context,
    sites: Sequence[Site],
    evidence: Evidence,
    versions: Mapping[str, str],
    calls: Calls = "",
) -> Hotfix:
    """The hotfix of a fit.

    Args:
        sites: all sites of the model, in graph order.
        versions: package → version, of those that the fit used.
        calls: see `Hotfix`.
    """
    plan = fitted.plan
    return Hotfix(
        sites=tuple(
            HotfixSite(site.id, layer, site.heads, site.fingerprint, plan.sites[site.id])
            for layer, site in enumerate(sites)
            if site.id in plan.sites
        ),
        threshold=plan.threshold,
        weights=model_io.weights_digest(context.whole, context.folder),
        level=fitted.level,
        companion=plan.companion,
        most=plan.most,
        wider=plan.wider,
        margin=plan.margin,
        groups=plan.groups,
        passes=plan.passes,
        joint=plan.joint,
        mend=plan.mend,
        closes_up=plan.closes_up,
        accept=plan.accept,
        data=context.data.digest,
        calls=calls,
        lengths=seen_lengths(context, sites),
        evidence=evidence,
        seeds={"fit": context.seed},
        versions=versions,
    )


def spread(values: NDArray[np.float64]) -> list[float]:
    """Five quantiles: the middle 95 %, the middle half, the median; [] of nothing."""
    finite = values[np.isfinite(values)]
    return [float(value) for value in np.quantile(finite, QUANTILES)] if len(finite) else []
