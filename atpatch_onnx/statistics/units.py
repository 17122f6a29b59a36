"""Rates, differences of rates and paired tests in which units are the independent draws (extra `report`).

A unit that sends many requests is one draw, not many. Where there are such units, intervals come from a bootstrap
over units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .proportions import CONFIDENCE, Paired, Share

__all__ = ["Difference", "McNemar", "Rate", "difference", "holm", "mcnemar", "rate"]

Units = Mapping[tuple[int, int], int]
"""(hits, count) → how many units have so many hits among so many samples."""

REPLICATES = 2000
_SEED = 20260121
_MOST_CELLS = 4_000_000
"""Counts drawn at a time: 32 MB."""


@dataclass(frozen=True)
class Rate:
    """A share of samples, with an interval whose draws are whole units.

    Attributes:
        units: draws.
        method: "wilson" or "bootstrap".
    """

    share: Share
    units: int
    low: float
    high: float
    method: str

    def to_json(self) -> dict[str, Any]:
        value = self.share.value if self.share.count else None
        return {
            "hits": self.share.hits,
            "count": self.share.count,
            "units": self.units,
            "value": value,
            "low": self.low,
            "high": self.high,
            "method": self.method,
        }


@dataclass(frozen=True)
class Difference:
    """Rate of the patched arm minus the rate of the original arm, unpaired.

    Attributes:
        method: "newcombe" or "bootstrap".
    """

    patched: Rate
    original: Rate
    value: float
    low: float
    high: float
    method: str

    def to_json(self) -> dict[str, Any]:
        return {
            "patched": self.patched.to_json(),
            "original": self.original.to_json(),
            "difference": self.value,
            "low": self.low,
            "high": self.high,
            "method": self.method,
        }


def rate(units: Units) -> Rate:
    """Wilson's interval where every unit counts once, else the bootstrap over units.

    Where all samples are hits, or none is, a bootstrap has no width; Wilson's interval over units is used then.

    Raises:
        AtpatchError: ATP051 without scipy.
    """
    draws = _Draws.of(units)
    return draws.rate(None if draws.plain else draws.replicates(np.random.default_rng(_SEED)))


def difference(patched: Units, original: Units) -> Difference | None:
    """Patched minus original; None where an arm has no samples.

    Newcombe's hybrid score interval (Statistics in Medicine 17, 873–890 (1998), method 10), or the bootstrap over units
    of both arms.
    """
    arms = _Draws.of(patched), _Draws.of(original)
    if not all(arm.units for arm in arms):
        return None
    random = np.random.default_rng(_SEED)
    drawn = [None if arm.plain else arm.replicates(random) for arm in arms]
    ours, theirs = (arm.rate(rates) for arm, rates in zip(arms, drawn, strict=True))
    value = ours.share.value - theirs.share.value
    if drawn[0] is not None and drawn[1] is not None:
        return Difference(ours, theirs, value, *_quantiles(drawn[0] - drawn[1]), "bootstrap")
    return Difference(ours, theirs, value, *_newcombe(arms[0].wilson(), arms[1].wilson(), value), "newcombe")


def _newcombe(patched: Share, original: Share, value: float) -> tuple[float, float]:
    (low, high), (least, most) = patched.interval, original.interval
    p, q = patched.value, original.value
    return value - float(np.hypot(p - low, most - q)), value + float(np.hypot(high - p, q - least))


@dataclass(frozen=True)
class _Draws:
    """Units of one arm by kind: `hits` and `counts` of each kind, and `sizes`, how many units it has, (K,) each."""

    hits: NDArray[np.int64]
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, units: Units) -> _Draws:
        kinds = np.array([(*kind, size) for kind, size in units.items() if kind[1] and size], np.int64).reshape(-1, 3)
        return cls(*kinds.T)

    @property
    def units(self) -> int:
        return int(self.sizes.sum())

    @property
    def share(self) -> Share:
        return Share(int(self.hits @ self.sizes), int(self.counts @ self.sizes))

    @property
    def single(self) -> bool:
        return bool((self.counts == 1).all())

    @property
    def plain(self) -> bool:
        """Whether a score interval is used: every unit counts once, or all samples agree."""
        return self.single or self.share.hits in (0, self.share.count)

    def rate(self, replicates: NDArray[np.float64] | None) -> Rate:
        if replicates is None:
            return Rate(self.share, self.units, *self.wilson().interval, "wilson")
        return Rate(self.share, self.units, *_quantiles(replicates), "bootstrap")

    def wilson(self) -> Share:
        """The share with units as draws, which is what a score interval may be asked of: as many draws as units, at the
        samples' rate.
        """
        return self.share if self.single else Share(round(self.share.value * self.units), self.units)

    def replicates(self, random: np.random.Generator) -> NDArray[np.float64]:
        """(REPLICATES,) rates, units drawn with replacement. Units of one kind are drawn together, so a million of
        them cost as much as a hundred.
        """
        rates = np.empty(REPLICATES)
        step = max(1, _MOST_CELLS // len(self.sizes))
        for start in range(0, REPLICATES, step):
            part = rates[start : start + step]
            drawn = random.multinomial(self.units, self.sizes / self.units, len(part))
            part[:] = (drawn @ self.hits) / (drawn @ self.counts)
        return rates


def _quantiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Exact test of discordant pairs: `patched` fell on the patched side, `original` on the other."""

    patched: int
    original: int
    p_value: float

    def to_json(self) -> dict[str, Any]:
        return {"patched": self.patched, "original": self.original, "p": self.p_value}


def mcnemar(patched: int, original: int) -> McNemar:
    """McNemar's test in its exact form, a two-sided binomial test of one half (Psychometrika 12, 153–157 (1947)); p is
    1 without pairs.

    Raises:
        AtpatchError: ATP051 without scipy.
    """
    return McNemar(patched, original, Paired(both=0, lost=patched, gained=original, neither=0).p)


def holm(p_values: list[float]) -> list[float]:
    """Adjusted for having tried all of them (Holm, Scandinavian Journal of Statistics 6, 65–70 (1979))."""
    adjusted, greatest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = greatest
    return adjusted
