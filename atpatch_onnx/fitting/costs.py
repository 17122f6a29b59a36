"""What a hotfix costs on clean requests, measured on the served graph, and the boldest one that keeps to the bounds.

A flagged request runs again (one more run, or two where `PatchPlan.wider` asks for a second try), and its answer may
change (accuracy lost; without labels, every change counts as lost). No attack is at hand, so nothing says which
threshold stops more of them but this: the lower it is, and the more tokens of a flagged request are acted on, the fewer
get through. So the fit takes as much of both as the bounds allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import PatchPlan

from ..hotfix.cost_figures import CostFigures, CostTried
from ..inference.datasets import Ints
from ..inference.prediction import Served
from .clean_columns import most_attacks
from .training import Context

__all__ = ["Bounds", "Costs"]

ROUNDING = 1e-4
"""Relative; float32 leaves differences of large features with four digits."""
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02, 0.0)
"""Of the allowed extra runs: the thresholds that are tried, from the lowest."""


CHANGED_FOR_LOST = 2
"""Predictions that may change for each one that may be lost. That gains make up for losses may be chance on a few
hundred rows: none of 350 was lost where 872 others lost 1.4 points (SST-2 BadNets).
"""


@dataclass(frozen=True)
class Acting:
    """How many columns of a flagged sample are acted on: see `PatchPlan.most`, `companion` and `wider`."""

    most: int
    companion: float
    wider: int = 0

    def of(self, plan: PatchPlan) -> PatchPlan:
        return replace(plan, most=self.most, companion=self.companion, wider=self.wider)


EVERY_FLAGGED = Acting(0, 1.0)
ACTING = (EVERY_FLAGGED, Acting(3, 1.0), Acting(2, 1.0), Acting(1, 1.0))
"""From the boldest. A trigger of one word is the top column in all of its sentences (in 95 % where it hides its
attention), so one column is enough for it; the others are for triggers of several words. No lower threshold for them
(companion 1): acting on what is only half as conspicuous acted on words that decide the sentence, and left 4 % of the
attacks where one column left 2 %, at a higher cost (SST-2 BadNets, dev rows).
"""
WIDER = 5
"""Columns of a second try, for triggers of several tokens of which any one is enough: with three rare words it left
74 % of the attacks instead of 97 %, and changed no more of 1,472 clean answers, nor of a model with another trigger
(.14 % each); ten changed .54 % of the latter (SST-2, dev rows). On other rows five changed .1 to .7 %, so clean rows
must show what they cost.
"""
RUNS_OF_TWO_TRIES = 2
"""Both tries of a flagged request are made at once."""


@dataclass(frozen=True)
class Bounds:
    """What is allowed: see `FitOptions`. A `flagged` that is given replaces the other bounds on the threshold."""

    accuracy_drop: float
    extra_runs: float
    flagged: float | None = None
    trim: float = 0.0


@dataclass(frozen=True)
class Tried:
    """One threshold and one way of acting. extra: further runs of all rows; lost: accuracy, or share of predictions."""

    plan: PatchPlan
    extra: int
    lost: float
    changed: int


class Costs:
    """Finds the plan that the bounds allow.

    Args:
        peaks: highest score of each row (N,).
        sure: rows (N,) whose class scores are further apart than the margin of the plan; the others are not flagged.
        open_session: makes the served form of a plan; its threshold is given for each run.
    """

    def __init__(
        self,
        context: Context,
        bounds: Bounds,
        peaks: NDArray[np.float64],
        open_session: Callable[[PatchPlan], Served],
        sure: NDArray[np.bool_],
    ) -> None:
        self._context, self._bounds, self._open = context, bounds, open_session
        self._rows = context.parts.selection.clean
        self._order = self._rows[np.argsort(-peaks[self._rows], kind="stable")]
        self._peaks, self._sure = peaks, sure
        self._suspects = self._order[: most_attacks(len(self._rows), bounds.trim)] if bounds.trim else self._order[:0]
        self._most_changed = bounds.accuracy_drop * (1 if context.data.labels is None else CHANGED_FOR_LOST)
        self._tried: list[Tried] = []
        self._live: dict[Acting, Served] = {}
        self._before: NDArray[np.int64] | None = None

    def choose(self, plan: PatchPlan) -> PatchPlan:
        """The plan with its threshold, and how many columns it acts on."""
        ways = ACTING if plan.joint == "sum" else (EVERY_FLAGGED,)
        bars = self._bars()
        gentlest = ways[-1]
        tried = self._try(plan, bars[0], gentlest)
        for bar in bars[1:]:
            if self._affordable(tried):
                break
            tried = self._try(plan, bar, gentlest)
        for way in ways[:-1]:
            bolder = self._try(plan, tried.plan.threshold, way)
            if self._affordable(bolder):
                tried = bolder
                break
        return self._with_second_try(tried).plan

    def _with_second_try(self, tried: Tried) -> Tried:
        """The same with one, where the bounds allow two runs of each clean request that is flagged.

        Not where a share of flagged rows replaces the bounds: nothing then says what answers may cost, and random texts
        do not show it (six of 900 right answers were lost where none of 1,200 such texts had changed).
        """
        plan, bounds = tried.plan, self._bounds
        allowed = bounds.extra_runs * len(self._rows) + RUNS_OF_TWO_TRIES * len(self._suspects)
        if plan.joint != "sum" or plan.accept != "flip" or bounds.flagged is not None:
            return tried
        if RUNS_OF_TWO_TRIES * tried.extra > allowed:
            return tried
        second = self._try(plan, plan.threshold, Acting(plan.most, plan.companion, WIDER))
        return second if self._affordable(second) else tried

    def served(self, plan: PatchPlan) -> Served:
        """The session of a plan that was tried."""
        return self._session(plan, Acting(plan.most, plan.companion, plan.wider))

    def to_json(self) -> CostFigures:
        """All that was tried, the choice last among equals."""
        bounds, count = self._bounds, len(self._rows)
        tried: Sequence[CostTried] = [
            {
                "threshold": one.plan.threshold,
                "most": one.plan.most,
                "wider": one.plan.wider,
                "companion": one.plan.companion,
                "extra_runs": one.extra / max(count, 1),
                "lost": one.lost,
                "changed": one.changed,
            }
            for one in self._tried
        ]
        return {
            "max_accuracy_drop": bounds.accuracy_drop,
            "max_extra_runs": bounds.extra_runs,
            "measure": "changed" if self._context.data.labels is None else "accuracy",
            "tried": tried,
        }

    def _bars(self) -> list[float]:
        """Thresholds, ascending. Attacks among the rows are flagged on top of what clean rows may cost."""
        count, bounds = len(self._rows), self._bounds
        clean = [bounds.extra_runs * share for share in SHARES] if bounds.flagged is None else [bounds.flagged]
        shares = [share + bounds.trim * (1 - share) for share in clean]
        peaks = self._peaks[self._order]
        bars = [float(peaks[min(math.floor(share * count), count - 1)]) for share in shares]
        # A little above: scores in the graph come from float32 sums of another order than ours.
        return sorted({float(np.float32(bar + ROUNDING * (1 + abs(bar)))) for bar in bars})

    def _affordable(self, tried: Tried) -> bool:
        changed = tried.changed / max(len(self._rows) - len(self._suspects), 1)
        return tried.lost <= self._bounds.accuracy_drop and changed <= self._most_changed

    def _try(self, plan: PatchPlan, threshold: float, way: Acting) -> Tried:
        plan = way.of(replace(plan, threshold=threshold))
        session, labels = self._session(plan, way), self._context.data.labels
        flagged = self._rows[(self._peaks[self._rows] > threshold) & self._sure[self._rows]]
        rows = np.setdiff1d(flagged, self._suspects)
        before = self._original(session)[rows]
        after = session.run(self._context.data, rows, threshold)[0][rows]
        changed = before != after
        lost = (
            int(changed.sum())
            if labels is None
            else int((before == labels[rows]).sum() - (after == labels[rows]).sum())
        )
        count = max(len(self._rows) - len(self._suspects), 1)
        runs = RUNS_OF_TWO_TRIES if way.wider else 1
        self._tried.append(Tried(plan, runs * len(flagged), lost / count, int(changed.sum())))
        return self._tried[-1]

    def _original(self, session: Served) -> Ints:
        """Predictions of the original (N,), of the rows that any threshold flags: nothing is above infinity."""
        if self._before is None:
            rows = self._rows[self._peaks[self._rows] > self._bars()[0]]
            self._before = session.run(self._context.data, rows, math.inf)[0]
        return self._before

    def _session(self, plan: PatchPlan, way: Acting) -> Served:
        if way not in self._live:
            self._live[way] = self._open(way.of(plan))
        return self._live[way]
