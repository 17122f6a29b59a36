"""Sites that act together: which of them are patched, and which detect.

All sites that fit the labels read the same columns, so they are one group: what one flags, others excise. A site whose
own maps tell nothing may still be worth patching, with a detector that never fires, because its values carry what an
earlier site has flagged. Whether it is, and whether a second detector adds anything, is asked of the served graph;
sites that change nothing only cost time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.choices import Accept, Joint, Mend, Passes
from rewriters.plan import PatchPlan, Static

from ..hotfix.file import is_silent
from .calibration import BenignChoice
from .training import TrainedSite

__all__ = ["LEAST_RECALL", "Key", "Lineup", "first_lineup", "prune"]

LEAST_RECALL = 0.05
"""A site that catches less than this on its own only adds false flags."""

Key = tuple[Any, ...]
"""How a lineup does, smaller is better."""


@dataclass(frozen=True)
class Lineup:
    """Sites in graph order; silent ones have the detector `Static()` and no peaks; those of a joint "sum" all have the
    peaks of the sum.
    """

    sites: tuple[TrainedSite, ...]
    passes: Passes
    accept: Accept
    companion: float = 1.0
    joint: Joint = "any"
    mend: Mend = "redistribute"

    @property
    def detecting(self) -> list[TrainedSite]:
        return [one for one in self.sites if not is_silent(one.plan)]

    @property
    def peaks(self) -> NDArray[np.float64]:
        """Highest logit of each row (N,) over all sites."""
        peaks: NDArray[np.float64] = np.max([one.peaks for one in self.sites], axis=0)
        return peaks

    @property
    def key(self) -> Hashable:
        """The same for lineups of one fit that act the same."""
        return (tuple(_roles(self)), self.passes, self.accept, self.companion, self.joint, self.mend)

    @property
    def group(self) -> tuple[str, ...]:
        return tuple(one.site.id for one in self.sites)

    def plan(self, choice: BenignChoice) -> PatchPlan:
        plans = {one.site.id: choice.apply(one.plan) for one in self.sites}
        return PatchPlan(
            plans,
            companion=self.companion,
            passes=self.passes,
            groups=(self.group,),
            joint=self.joint,
            mend=self.mend,
            accept=self.accept,
        )

    def without(self, names: Collection[str]) -> Lineup:
        return _useful(replace(self, sites=tuple(one for one in self.sites if one.site.id not in names)))

    def silenced(self, names: Collection[str]) -> Lineup:
        return _useful(replace(self, sites=tuple(_silent(one) if one.site.id in names else one for one in self.sites)))


def first_lineup(trained: Sequence[TrainedSite], passes: Passes, accept: Accept) -> Lineup:
    """All sites that can do anything: in two passes every one, in one pass those from the first on that detects."""
    everything = Lineup(tuple(trained), passes, accept)
    return everything.silenced([one.site.id for one in trained if one.point.recall < LEAST_RECALL])


def prune(lineup: Lineup, trial: Callable[[Lineup], Key]) -> Lineup:
    """Leave out what changes nothing for the better: silent sites, then detecting ones, the weakest first; then switch
    detectors off.

    Whole blocks are tried before their halves, since as a rule most sites can go.

    Args:
        trial: tried on every candidate; a lineup is kept where it does no worse than the one before.
    """
    race = _Race(lineup, trial)
    weakest_first = sorted(range(len(lineup.sites)), key=lambda index: (lineup.sites[index].point.recall, -index))
    names = [lineup.sites[index].site.id for index in weakest_first]
    detecting = {one.site.id for one in lineup.detecting}
    race.drop([name for name in names if name not in detecting])
    race.drop([name for name in names if name in detecting])
    for name in names:
        if name in detecting:
            race.challenge(race.best.silenced([name]))
    return race.best


class _Race:
    def __init__(self, best: Lineup, trial: Callable[[Lineup], Key]) -> None:
        self.best, self._trial = best, trial
        self._key: Key | None = None

    def challenge(self, other: Lineup) -> bool:
        """Whether another lineup took the place of the best."""
        if not other.detecting or _roles(other) == _roles(self.best):
            return False
        if self._key is None:
            self._key = self._trial(self.best)
        key = self._trial(other)
        if key > self._key:
            return False
        self.best, self._key = other, key
        return True

    def drop(self, block: Sequence[str]) -> None:
        if not block or self.challenge(self.best.without(block)) or len(block) == 1:
            return
        middle = (len(block) + 1) // 2
        self.drop(block[:middle])
        self.drop(block[middle:])


def _silent(one: TrainedSite) -> TrainedSite:
    return replace(one, plan=replace(one.plan, detector=Static()), peaks=np.full_like(one.peaks, -np.inf))


def _roles(lineup: Lineup) -> list[tuple[str, bool]]:
    return [(one.site.id, is_silent(one.plan)) for one in lineup.sites]


def _useful(lineup: Lineup) -> Lineup:
    """In one pass nothing is known yet ahead of the first site that detects."""
    if lineup.passes == "two":
        return lineup
    first = next((index for index, one in enumerate(lineup.sites) if not is_silent(one.plan)), len(lineup.sites))
    return replace(lineup, sites=lineup.sites[first:])
