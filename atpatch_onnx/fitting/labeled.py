"""Fit on labeled columns: train, bring sites to one scale, choose by what the served graph does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rewriters.errors import AtpatchError

from ..errors import NOT_HELPFUL
from ..inference.capture import Capture
from .calibration import BenignChoice
from .fitted import Fitted, spread
from .joint_training import sites_together
from .judge import Judge, advice
from .passes import Wanted
from .recipes import make_recipe
from .scored import Tuned
from .second_runs import SecondRuns
from .signals import read_signals
from .site_selection import LEAST_RECALL
from .token_ids import token_ids
from .training import Context, anchor_sites, observe_sites, train_observed
from .tuning import Tuner

__all__ = ["fit_labeled"]


def fit_labeled(
    context: Context, capture: Capture, kind: str, judge: Judge, output: str, wanted: Wanted, runs: SecondRuns
) -> Fitted | AtpatchError:
    """Fit one labeled kind; or the reason why it cannot be used: ATP056 where the data do not admit the kind, ATP057
    where no site tells labeled columns from others.

    Args:
        kind: one of `detectors.LABELED`.
        judge: knows the original model's predictions.
        output: graph output whose argmax is the prediction.
        runs: of this model and data; what other fits have run is not run again.

    Raises:
        AtpatchError: ATP023 for two passes or excision that the graph does not admit.
    """
    norms = read_signals(context, capture, both=kind == "profile" and wanted.signals == "both").norms
    rows, columns = len(context.parts.train.rows), context.columns.shape[1]
    made = make_recipe(kind, capture.sites, rows, columns, context.seed, context.every, norms)
    seen = observe_sites(context, capture, made)
    if isinstance(seen, AtpatchError):
        return seen
    trained = anchor_sites(context, capture, made, train_observed(context, capture, made, seen))
    if all(one.point.recall < LEAST_RECALL for one in trained):
        before = judge.figures(context.parts.selection, judge.original)
        return NOT_HELPFUL("no site's maps tell the labeled columns from others", advice(before))
    tokens = token_ids(context, capture) if kind == "profile" else None
    summed = partial(sites_together, context, capture, made, trained)
    tuner = Tuner(context, judge, output, summed, always=made.always, tokens=tokens, runs=runs)
    tuned = tuner.tune(trained, wanted)
    kept = set(tuned.candidate.group)
    skipped = {}
    for one in trained:
        if one.site.id not in kept:
            blind = one.point.recall < LEAST_RECALL
            skipped[one.site.id] = (
                "its maps tell nothing, and " * blind + "patching it as well changes nothing for the better"
            )
    # The file keeps the mean, so that `patch` can use another level.
    plan = replace(tuned.candidate.plan(BenignChoice(1.0, tuned.choice.own_values)), threshold=tuned.threshold)
    detecting = frozenset(one.site.id for one in tuned.candidate.detecting)
    recall = {one.site.id: one.point.recall for one in trained if one.site.id in kept}
    scores = _spreads(context, tuned)
    together: dict[str, list[float]] = {}
    if plan.joint == "sum":  # then every site of the candidate has the peaks of the sum
        scores, together = {}, next(iter(scores.values()))
    return Fitted(
        plan,
        tuned.served,
        tuned.choice.level,
        detecting,
        skipped,
        tuned.evidence,
        scores,
        recall,
        together,
        tuned.outcome,
    )


def _spreads(context: Context, tuned: Tuned) -> dict[str, dict[str, list[float]]]:
    """Site id → the highest logits of clean and of anomalous rows of the selection part."""
    part = context.parts.selection
    return {
        one.site.id: {"clean": spread(one.peaks[part.clean]), "anomalous": spread(one.peaks[part.anomalous])}
        for one in tuned.candidate.detecting
    }
