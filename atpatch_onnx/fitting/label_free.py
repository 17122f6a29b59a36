"""Fit on clean rows only. No trigger is known, so the fit learns what clean rows look like, and the threshold follows
from what it may cost on them (see `costs`).

In two passes the sites of a group decide together, by the sum of their scores (`PatchPlan.joint`). The score adds up
two tests, of attention and of how much a token writes: each signal has attackers who hide from it. Where tokens move,
only the later half of the sites detects, since a moving trigger shows late and early sites point at rare words. There
the flagged tokens are taken out of the request: on SST-2 BadNets that leaves 1 % of the attacks where redistribution
leaves 2 % (one column, 2 % of clean rows flagged), and it needs no benign values. Elsewhere the benign pair is the
clean mean of attention and values, which hardly harms a request that is flagged by mistake. By default the second run's
answer is accepted only where it differs: a causal test of the flag, after which all other requests keep every bit of
theirs.

Traffic may hold a few attacks. With `trim` the rows whose scores are highest are set aside, and the fit starts again
without them. Needs numpy and onnxruntime only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rewriters.choices import Accept, Mend, Passes
from rewriters.editing.admission import not_admitted
from rewriters.plan import OneClass, PatchPlan, Static

from ..hotfix.evidence import Calibration
from ..inference.capture import Capture
from ..inference.prediction import Served
from .clean_columns import CleanColumns
from .clean_levels import margins
from .costs import Bounds, Costs
from .fitted import Fitted, spread
from .judge import rate
from .options import MOST_ACCURACY_DROP, MOST_CHANGED
from .passes import Wanted
from .signals import read_signals
from .training import Context

__all__ = ["fit_label_free"]

NO_FLIPS: Mapping[Passes, str] = {
    "one": "one pass has no second answer to compare with",
    "two": "the graph has no output of class scores (samples, classes) to compare",
}
"""Passes → why every answer of a flagged request is accepted."""


def fit_label_free(context: Context, capture: Capture, kind: str, output: str, wanted: Wanted) -> Fitted:
    """Describe clean columns, and set the threshold on the selection part.

    Args:
        kind: one of `detectors.LABEL_FREE`.
        output: graph output whose argmax is the prediction.
        wanted: passes "auto" means two where the graph admits them, mend "auto" excision where tokens move and the
            graph admits it, accept "auto" flips where the graph admits them.

    Raises:
        AtpatchError: ATP023 where two passes, excision or flips are asked for and the graph does not admit them.
    """
    fitting = _Fitting(context, capture, kind, wanted)
    passes = wanted.passes
    if passes == "auto":
        passes = "two" if wanted.mend == "excise" or fitting.admits("two", "always") else "one"
    return fitting.run(output, passes)


class _Fitting:
    def __init__(self, context: Context, capture: Capture, kind: str, wanted: Wanted) -> None:
        self._signals = read_signals(context, capture, both=kind == "oneclass" and wanted.signals != "attention")
        context = replace(context, norms=self._signals.norms)
        self._context, self._wanted = context, wanted
        self._sites = {site.id: site for site in capture.sites}
        self._columns = CleanColumns(context, capture, kind, wanted.trim)
        if wanted.by_length and context.mask is not None and not self._columns.by_place:
            self._columns.level_lengths((context.data.inputs[context.mask] != 0).sum(1))

    def admits(self, passes: Passes, accept: Accept, mend: Mend = "redistribute") -> bool:
        plan = self._plan(passes, accept, mend)
        return not_admitted(self._context.model, plan, [*self._sites.values()]) is None

    def run(self, output: str, passes: Passes) -> Fitted:
        context, wanted, columns = self._context, self._wanted, self._columns
        accept = wanted.accepted("flip")
        fallen_back = wanted.accept == "auto" and not (passes == "two" and self.admits(passes, accept))
        accept = "always" if fallen_back else accept
        plan = self._plan(passes, accept, self._mend(passes, accept))
        plan, sure = self._sure(plan, output)
        drop = wanted.max_accuracy_drop
        if drop is None:
            drop = MOST_CHANGED if context.data.labels is None else MOST_ACCURACY_DROP
        flagged = wanted.max_clean_flagged if wanted.sure is None or plan.margin else 0.0
        bounds = Bounds(drop, wanted.max_extra_runs, flagged, wanted.trim)

        def served(plan: PatchPlan) -> Served:
            sites = [self._sites[name] for name in plan.sites]
            return context.serve(plan, sites, output)

        peaks, clean = columns.peaks(plan), context.parts.selection.clean
        costs = Costs(context, bounds, peaks, served, sure)
        plan = costs.choose(plan)
        calibration: Calibration = {
            "clean_flagged": rate((peaks[clean] > plan.threshold) & sure[clean]),
            "joint": plan.joint,
            "signals": self._signals.to_json(),
            "passes": {"chosen": passes},
            "mend": {"chosen": plan.mend},
            "accept": {"chosen": plan.accept, "why": NO_FLIPS[passes]} if fallen_back else {"chosen": plan.accept},
            "costs": costs.to_json(),
            "set_aside": len(columns.set_aside),
        }
        skipped = {name: "moving triggers show late" for name in self._sites if name not in plan.sites}
        scores = {name: {"clean": spread(columns.scores[name].max(1)[clean])} for name in columns.detecting}
        together = {"clean": spread(peaks[clean])} if plan.joint == "sum" else {}
        detecting = frozenset(columns.detecting)
        return Fitted(plan, costs.served(plan), 1.0, detecting, skipped, calibration, scores, together=together)

    def _sure(self, plan: PatchPlan, output: str) -> tuple[PatchPlan, NDArray[np.bool_]]:
        """The plan with its margin, where one is wanted and the graph admits it; and which rows (N,) are above it."""
        context, share = self._context, self._wanted.sure
        compared = plan.accept == "flip" and plan.joint == "sum"
        surest = replace(plan, margin=1.0)
        if share is None or not compared or not_admitted(context.model, surest, [*self._sites.values()]):
            return plan, np.ones(len(context.data), np.bool_)
        rows = np.sort(np.concatenate([context.parts.train.clean, context.parts.selection.clean]))
        if (found := margins(context, rows, output)) is None:
            return plan, np.ones(len(context.data), np.bool_)
        plan = replace(plan, margin=float(np.quantile(found[rows], share)))
        return plan, found > np.float32(plan.margin)

    def _mend(self, passes: Passes, accept: Accept) -> Mend:
        """Where tokens move, excision does as well as redistribution or better (see the module's text)."""
        if self._wanted.mend != "auto":
            return self._wanted.mend
        tokens_move = passes == "two" and not self._columns.by_place
        return "excise" if tokens_move and self.admits(passes, accept, "excise") else "redistribute"

    def _plan(self, passes: Passes, accept: Accept, mend: Mend) -> PatchPlan:
        """The plan without its threshold. In two passes sites that do not detect are patched all the same."""
        plans, detecting = self._columns.plans, self._columns.detecting
        joint = passes == "two" and all(isinstance(plans[name].detector, OneClass) for name in detecting)
        names = list(plans) if passes == "two" else detecting
        return PatchPlan(
            {name: plans[name] if name in detecting else replace(plans[name], detector=Static()) for name in names},
            passes=passes,
            groups=(tuple(names),),
            joint="sum" if joint else "any",
            mend=mend,
            accept=accept if passes == "two" else "always",
        )
