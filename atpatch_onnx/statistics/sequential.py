"""Sequential tests of counts: their error bound holds however often one looks. Pure functions, used for the analysis of
a log and for a live page.

Each test asks one question: of the events in the table, how many fell on the side of the patched model, and how many
are expected there if nothing differs?

| events | share expected on the patched side if nothing differs |
|---|---|
| pairs in which exactly one model was right (shadow) | 1/2 |
| pairs that moved into or out of one class (shadow) | 1/2 |
| units with the outcome (A/B) | the patched arm's weight |
| units at all (sample-ratio mismatch) | the patched arm's weight |

Given that an event happened, its side is then a coin of known bias, drawn independently of the others. This is true
whatever the rate of events is and however it drifts. The Beta mixture of likelihood ratios against that
coin is a martingale with mean 1, so by Ville's inequality the probability that it ever reaches 1/α is at most α. One
may look at it after every event, and stop as soon as it is reached.

Sources: Ville, "Étude critique de la notion de collectif" (1939); Robbins, "Statistical methods related to the law of
the iterated logarithm" (1970), for the mixture and its interval; Johari, Koomen, Pekelis, Walsh, "Always valid
inference" (Operations Research 2022); Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS
2022), for counts of outcomes and for the sample ratio.

Numpy and the standard library only, so that a server need not carry scipy for its page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ALPHA", "SRM_ALPHA", "Evidence", "Srm", "evidence_path", "evidence_so_far", "log_e_value", "srm"]

ALPHA = 0.05
SRM_ALPHA = 0.001
"""Below this p-value the split makes the experiment invalid. Stricter than `ALPHA`, because every experiment is
checked.
"""
_LEAST_EXPECTED = 5.0
"""Expected units in each arm from which on the χ² approximation is used."""
_HALVINGS = 60
_log_gamma = np.frompyfunc(math.lgamma, 1, 1)


def log_e_value(patched: ArrayLike, original: ArrayLike, share: float = 0.5) -> NDArray[np.float64]:
    """Natural logarithm of the e-value against "an event falls on the patched side with probability `share`".

    With b and c events on the two sides and the prior Beta(p, q) of `_prior`:
    ln e = ln B(p + b, q + c) − ln B(p, q) − b·ln(share) − c·ln(1 − share).

    Args:
        patched, original: counts of events, of one shape.
        share: in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} is not inside (0, 1)")
    b, c = np.asarray(patched, float), np.asarray(original, float)
    p, q = _prior(share)
    mixture = _log_beta(p + b, q + c) - _log_beta(np.float64(p), np.float64(q))
    return np.asarray(mixture - b * math.log(share) - c * math.log1p(-share), np.float64)


def _prior(share: float) -> tuple[float, float]:
    """The widest Beta with mean `share` that has no pole: both parameters at least 1, uniform for one half."""
    weight = 1 / min(share, 1 - share)
    return weight * share, weight * (1 - share)


def _log_beta(p: NDArray[np.float64] | np.float64, q: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(_log_gamma(p) + _log_gamma(q) - _log_gamma(p + q), np.float64)


@dataclass(frozen=True)
class Evidence:
    """The result after the events so far.

    Attributes:
        patched, original: events on either side.
        share: expected on the patched side if nothing differs.
        log_e: natural logarithm of the e-value now.
        peak: the same at the look at which it was largest; a decision once reached stands.
        low, high: confidence sequence at 1 − `alpha` for the true share; right at all times together.
        alpha: error that is allowed over all looks.
    """

    patched: int
    original: int
    share: float
    log_e: float
    peak: float
    low: float
    high: float
    alpha: float

    @property
    def p_value(self) -> float:
        """Always-valid p-value, 1 / e at its largest."""
        return math.exp(-max(self.peak, 0.0))

    @property
    def decided(self) -> bool:
        """The sides differ. At most a share `alpha` of the experiments without a difference ever report one."""
        return self.peak >= -math.log(self.alpha)

    @property
    def ratio(self) -> tuple[float, float]:
        """The confidence sequence as rate of events on the patched side over that on the original side."""
        due = (1 - self.share) / self.share
        return self.low / (1 - self.low) * due, self.high / (1 - self.high) * due if self.high < 1 else math.inf

    def to_json(self) -> dict[str, Any]:
        low, high = self.ratio
        return {
            "patched": self.patched,
            "original": self.original,
            "share_expected": self.share,
            "share_low": self.low,
            "share_high": self.high,
            "ratio_low": low,
            "ratio_high": high if math.isfinite(high) else None,
            "log10_e": self.log_e / math.log(10),
            "log10_e_peak": self.peak / math.log(10),
            "p_always_valid": self.p_value,
            "decided": self.decided,
        }


def evidence_so_far(
    patched: int, original: int, share: float = 0.5, alpha: float = ALPHA, peak: float = 0.0
) -> Evidence:
    """The evidence from counts of events on each side; the table above says what counts as an event.

    Args:
        patched, original: events so far, each unit or pair counted once.
        share: probability of the patched side if nothing differs.
        alpha: error allowed over all looks together.
        peak: `Evidence.peak` of the last look, where there was one.
    """
    log_e = float(log_e_value(patched, original, share))
    low, high = _sequence(patched, original, share, alpha)
    return Evidence(patched, original, share, log_e, max(log_e, peak), low, high, alpha)


def evidence_path(sides: ArrayLike, share: float = 0.5, alpha: float = ALPHA) -> tuple[Evidence, NDArray[np.float64]]:
    """The evidence after the last event, with its peak over all events, and ln e after each event.

    The confidence sequence is intersected with that at the peak: each holds at all times, so both hold together.

    Args:
        sides: (N,) true where an event fell on the patched side, in the order in which they happened.
    """
    hits = np.asarray(sides, bool)
    if not hits.size:
        return evidence_so_far(0, 0, share, alpha), np.zeros(0)
    patched = np.cumsum(hits)
    path = log_e_value(patched, np.arange(1, hits.size + 1) - patched, share)
    best, last = int(path.argmax()), hits.size - 1
    at_peak, now = (evidence_so_far(int(patched[n]), n + 1 - int(patched[n]), share, alpha) for n in (best, last))
    low, high = max(now.low, at_peak.low), min(now.high, at_peak.high)
    if low > high:
        low, high = now.low, now.high
    return replace(now, peak=max(now.peak, at_peak.peak), low=low, high=high), path


def _sequence(patched: int, original: int, share: float, alpha: float) -> tuple[float, float]:
    """Every share that the mixture does not reject: an interval around the observed share, because the log-likelihood
    is concave in the share.
    """
    count = patched + original
    if not count:
        return 0.0, 1.0
    p, q = _prior(share)
    mixture = float(
        _log_beta(np.float64(p + patched), np.float64(q + original)) - _log_beta(np.float64(p), np.float64(q))
    )

    def kept(value: float) -> bool:
        likelihood = (patched * math.log(value) if patched else 0.0) + (
            original * math.log1p(-value) if original else 0.0
        )
        return mixture - likelihood < -math.log(alpha)

    def edge(outside: float, inside: float) -> float:
        for _ in range(_HALVINGS):
            middle = (outside + inside) / 2
            outside, inside = (outside, middle) if kept(middle) else (middle, inside)
        return outside

    seen = patched / count
    return (edge(0.0, seen) if patched else 0.0), (edge(1.0, seen) if original else 1.0)


@dataclass(frozen=True)
class Srm:
    """Sample-ratio mismatch: whether the arms got as many units as the weight gives them.

    Attributes:
        patched, original: units in either arm.
        weight: of the patched arm.
        p_value: χ² test with one degree of freedom, for one look; None where an arm is due fewer than 5 units.
        log_e: logarithm of the e-value, for any number of looks.
    """

    patched: int
    original: int
    weight: float
    p_value: float | None
    log_e: float

    @property
    def alarm(self) -> bool:
        """The split differs from the weight by more than chance at `SRM_ALPHA`: no comparison of the arms is valid."""
        return self.p_value is not None and self.p_value < SRM_ALPHA

    @property
    def alarm_any_time(self) -> bool:
        """The same for a page that is looked at all the time: at most a share `SRM_ALPHA` of the fair experiments ever
        raise it."""
        return self.log_e >= -math.log(SRM_ALPHA)

    def to_json(self) -> dict[str, Any]:
        return {
            "patched": self.patched,
            "original": self.original,
            "weight": self.weight,
            "share": self.patched / (self.patched + self.original) if self.patched + self.original else None,
            "p": self.p_value,
            # Infinite where an arm that is due nothing got something; JSON has no word for that, and `alarm` says it.
            "log10_e": self.log_e / math.log(10) if math.isfinite(self.log_e) else None,
            "alarm": self.alarm,
        }


def srm(patched: int, original: int, weight: float) -> Srm:
    """Compare the units of both arms with the patched arm's weight, in [0, 1]; with 0 or 1 any unit of the other arm is
    a mismatch.
    """
    count = patched + original
    if not 0 < weight < 1:
        stray = patched if weight <= 0 else original
        return Srm(patched, original, weight, (0.0 if stray else 1.0) if count else None, math.inf if stray else 0.0)
    due = count * weight
    p_value = None
    if min(due, count - due) >= _LEAST_EXPECTED:
        statistic = (patched - due) ** 2 / due + (original - (count - due)) ** 2 / (count - due)
        p_value = math.erfc(math.sqrt(statistic / 2))
    return Srm(patched, original, weight, p_value, float(log_e_value(patched, original, weight)))
