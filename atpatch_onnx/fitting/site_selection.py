"""Which sites are patched, and which of them detect.

All sites that fit the labels read the same columns, so they form one group: a column that one site flags is patched at
the others too. A site whose own maps show nothing may still be worth patching, with a detector that never fires,
because its values carry the fault that an earlier site has flagged. The patched graph is run to find out whether a site
or a further detector helps; those that change nothing only cost time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.choices import Accept, Joint, Mend, Passes
from rewriters.plan import PatchPlan, Profile, SitePlan, Static

from ..hotfix.file import is_silent
from .calibration import BenignChoice
from .training import TrainedSite

__all__ = ["LEAST_RECALL", "Candidate", "Key", "first_candidate", "prune"]

LEAST_RECALL = 0.05
"""A site that catches less than this by itself only adds false flags."""

Key = tuple[Any, ...]
"""How good a candidate is; smaller is better."""


@dataclass(frozen=True)
class Candidate:
    """One way to patch the model.

    sites: in graph order. Silent ones have the detector `Static()` and no peaks; with joint "sum" every site has the
    peaks of the sum.
    tokens: the graph input by whose ids a `Profile` judges columns of equal tokens together.
    """

    sites: tuple[TrainedSite, ...]
    passes: Passes
    accept: Accept
    companion: float = 1.0
    joint: Joint = "any"
    mend: Mend = "redistribute"
    tokens: str | None = None

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
        """Equal for candidates of one fit that act the same."""
        return (tuple(_roles(self)), self.passes, self.accept, self.companion, self.joint, self.mend, self.tokens)

    @property
    def group(self) -> tuple[str, ...]:
        return tuple(one.site.id for one in self.sites)

    def plan(self, choice: BenignChoice) -> PatchPlan:
        plans = {one.site.id: self._joined(choice.apply(one.plan)) for one in self.sites}
        return PatchPlan(
            plans,
            companion=self.companion,
            passes=self.passes,
            groups=(self.group,),
            joint=self.joint,
            mend=self.mend,
            accept=self.accept,
        )

    def _joined(self, plan: SitePlan) -> SitePlan:
        if self.tokens is None or not isinstance(plan.detector, Profile):
            return plan
        return replace(plan, detector=replace(plan.detector, tokens=self.tokens))

    def without(self, names: Collection[str]) -> Candidate:
        return _useful(replace(self, sites=tuple(one for one in self.sites if one.site.id not in names)))

    def silenced(self, names: Collection[str]) -> Candidate:
        return _useful(replace(self, sites=tuple(_silent(one) if one.site.id in names else one for one in self.sites)))


def first_candidate(trained: Sequence[TrainedSite], passes: Passes, accept: Accept) -> Candidate:
    """All sites that can have an effect: in two passes all of them, in one pass the first that detects and those after
    it.
    """
    everything = Candidate(tuple(trained), passes, accept)
    return everything.silenced([one.site.id for one in trained if one.point.recall < LEAST_RECALL])


def prune(candidate: Candidate, trial: Callable[[Candidate], Key]) -> Candidate:
    """Leave out sites that do not help: silent ones first, then detecting ones, the weakest first. Then switch off
    detectors that do not help.

    Whole blocks are tried before their halves, because most sites can usually go.

    Args:
        trial: how good a candidate is; one that is no worse than the best so far replaces it.
    """
    search = _Search(candidate, trial)
    weakest_first = sorted(range(len(candidate.sites)), key=lambda index: (candidate.sites[index].point.recall, -index))
    names = [candidate.sites[index].site.id for index in weakest_first]
    detecting = {one.site.id for one in candidate.detecting}
    search.drop([name for name in names if name not in detecting])
    search.drop([name for name in names if name in detecting])
    for name in names:
        if name in detecting:
            search.try_instead(search.best.silenced([name]))
    return search.best


class _Search:
    def __init__(self, best: Candidate, trial: Callable[[Candidate], Key]) -> None:
        self.best, self._trial = best, trial
        self._key: Key | None = None

    def try_instead(self, other: Candidate) -> bool:
        """Whether another candidate replaced the best."""
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
        if not block or self.try_instead(self.best.without(block)) or len(block) == 1:
            return
        middle = (len(block) + 1) // 2
        self.drop(block[:middle])
        self.drop(block[middle:])


def _silent(one: TrainedSite) -> TrainedSite:
    return replace(one, plan=replace(one.plan, detector=Static()), peaks=np.full_like(one.peaks, -np.inf))


def _roles(candidate: Candidate) -> list[tuple[str, bool]]:
    return [(one.site.id, is_silent(one.plan)) for one in candidate.sites]


def _useful(candidate: Candidate) -> Candidate:
    """In one pass nothing is flagged yet before the first site that detects."""
    if candidate.passes == "two":
        return candidate
    first = next((index for index, one in enumerate(candidate.sites) if not is_silent(one.plan)), len(candidate.sites))
    return replace(candidate, sites=candidate.sites[first:])
