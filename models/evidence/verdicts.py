"""Whether what was measured lies within a bound, judged by its interval.

1. **met**: the bad end of the interval lies within the bound.
2. **not met**: the good end lies outside of it.
3. **not shown**: anything else. The bound may hold or not; there is too little to tell.

Settings that are judged one by one are judged together, by Holm's method (Scandinavian Journal of Statistics 6, 1979):
the chance that any of the verdicts "met" and "not met" of a table column is wrong stays below 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from atpatch_onnx.statistics.proportions import CONFIDENCE
from atpatch_onnx.statistics.units import holm

from .estimates import Estimate

__all__ = ["Judged", "Verdict", "joint", "judged", "known", "p_value", "together", "with_p"]

LEAST = 1e-9
"""Smaller p-values are not told apart."""


class Verdict(StrEnum):
    """Its value is the word on the page."""

    MET = "met"
    NOT_MET = "not met"
    NOT_SHOWN = "not shown"
    NOT_JUDGED = "–"


def known(holds: bool) -> Verdict:
    """Of what chance has no part in."""
    return Verdict.MET if holds else Verdict.NOT_MET


def judged(estimate: Estimate, bound: float, *, least: bool = False) -> Verdict:
    """By rules 1 to 3.

    Args:
        least: the bound is a lower one.
    """
    good, bad = (estimate.high, estimate.low) if least else (estimate.low, estimate.high)
    if bad >= bound if least else bad <= bound:
        return Verdict.MET
    return Verdict.NOT_MET if (good < bound if least else good > bound) else Verdict.NOT_SHOWN


def joint(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a bound that has several parts: met where all are, not met where any is not."""
    found = set(verdicts)
    if Verdict.NOT_MET in found:
        return Verdict.NOT_MET
    return Verdict.MET if found == {Verdict.MET} else Verdict.NOT_SHOWN


def p_value(at: Callable[[float], Estimate], bound: float) -> float:
    """Of the hypothesis that the truth lies on the other side of the bound than the mean does, two-sided: 1 minus the
    level of the widest interval that does not hold the bound.

    Args:
        at: the estimate with an interval of some level.
    """
    from scipy.optimize import brentq

    below = at(CONFIDENCE).mean < bound

    def outside(power: float) -> float:
        """Positive where the bound lies outside of the interval of level 1 - 10^power."""
        estimate = at(1 - 10**power)
        return bound - estimate.high if below else estimate.low - bound

    least, most = math.log10(LEAST), math.log10(1 - 1e-9)
    if outside(most) <= 0:
        return 1.0
    return LEAST if outside(least) > 0 else float(10 ** brentq(outside, least, most))


def with_p(p: float, mean: float, bound: float, *, least: bool = False) -> Verdict:
    """By an adjusted p-value."""
    if p > 1 - CONFIDENCE:
        return Verdict.NOT_SHOWN
    return known(mean > bound if least else mean < bound)


@dataclass(frozen=True)
class Judged:
    """One of several; p: adjusted by Holm's method."""

    estimate: Estimate
    p: float
    verdict: Verdict


def together(several: Sequence[Callable[[float], Estimate]], bound: float, *, least: bool = False) -> list[Judged]:
    """Each judged by itself, with Holm's method over all of them.

    Args:
        several: of each, the estimate with an interval of some level.
        least: the bound is a lower one.
    """
    adjusted = holm([p_value(at, bound) for at in several])
    estimates = [at(CONFIDENCE) for at in several]
    return [
        Judged(estimate, p, with_p(p, estimate.mean, bound, least=least))
        for estimate, p in zip(estimates, adjusted, strict=True)
    ]
