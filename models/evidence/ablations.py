"""What each part of a hotfix is good for: the same case with that part taken out or turned round, judged on the same
test sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from atpatch_onnx.fitting.calibration import BenignChoice, thresholds
from atpatch_onnx.fitting.recipes import make_recipe
from atpatch_onnx.fitting.site_selection import first_candidate
from atpatch_onnx.fitting.splits import join, split
from atpatch_onnx.fitting.training import Context, anchor_sites, train_sites
from atpatch_onnx.hotfix.file import Hotfix, Passes
from atpatch_onnx.inference.capture import Capture
from rewriters.editing.admission import not_admitted
from rewriters.model.bodies import walk_bodies
from rewriters.names import role_of
from rewriters.plan import PatchPlan, Static

from .answers import Figures, judge
from .case import MOST_CLEAN_FLAGGED, Case
from .fitting import fitted, try_plan
from .maps import labeled_columns

__all__ = ["ablations_step", "without_rescaling"]

DRAWS = 5
"""Random choices of columns."""
NEARLY_ALL = 0.99

Say = Callable[[str], None]


def ablations_step(case: Case, say: Say) -> Figures:
    """Figures of every ablation; one that does not apply is {"skipped": why}."""
    figures: Figures = {}
    for name, run in ABLATIONS.items():
        say(name)
        figures[name] = run(case, say)
    return figures


def _chosen(case: Case, say: Say) -> Figures:
    return try_plan(case, case.plan)


def _random_columns(case: Case, say: Say) -> Figures:
    """As many columns as are labeled, drawn anew DRAWS times; shares are means over the draws."""
    generator, columns = case.generator(), labeled_columns(case)
    count = max(1, int(np.median(columns.sum(1))))
    length = int(np.median(_lengths(case)))
    return _mean([try_plan(case, _static(case, generator.permutation(length)[:count])) for _ in range(DRAWS)])


def _no_rescaling(case: Case, say: Say) -> Figures:
    """Flagged columns are replaced, the others keep their attention."""
    model = without_rescaling(case.patched(replace(case.plan, mend="redistribute")))
    asked = case.ask(model)
    on_clean, on_attacked = (asked.all(data).predictions for data in (case.clean, case.attacked))
    return {"patched": judge(case.clean, case.attacked, case.before[0].predictions, on_clean, on_attacked)}


def _values(values: Any) -> Callable[[Case, Say], Figures]:
    return lambda case, say: try_plan(case, case.hotfix.plan(case.sites, None, values=values, mend="redistribute"))


def _mean_attention(case: Case, say: Say) -> Figures:
    return try_plan(case, case.hotfix.plan(case.sites, None, benign="mean", mend="redistribute"))


def _zero_attention(case: Case, say: Say) -> Figures:
    return try_plan(case, case.hotfix.plan(case.sites, None, benign="zero", mend="redistribute"))


def _all_sites(case: Case, say: Say) -> Figures:
    """Every site that fits the labels, at the middle of the thresholds that keep the clean flag rate."""
    data = join(case.debug, case.spare)
    context = Context(
        case.model, case.folder, data, split(data, case.seed), case.seed, MOST_CLEAN_FLAGGED, case.threads, _silent
    )
    capture = Capture(context.model, context.folder, case.sites, data, context.columns.shape[1], context.threads)
    made = make_recipe(
        case.setting.detector, capture.sites, len(context.parts.train.rows), context.columns.shape[1], case.seed
    )
    trained = anchor_sites(context, capture, made, train_sites(context, capture, made))
    candidate = first_candidate(trained, case.hotfix.passes, case.hotfix.accept)
    part = context.parts.selection
    candidates = thresholds(candidate.peaks[part.clean], candidate.peaks[part.anomalous], MOST_CLEAN_FLAGGED)
    own = all(site.plan.benign.own_values for site in case.hotfix.sites)
    plan = replace(candidate.plan(BenignChoice(case.hotfix.level, own)), threshold=candidates[len(candidates) // 2])
    return {**try_plan(case, plan), "sites": len(candidate.sites)}


def _always(case: Case, say: Say) -> Figures:
    """No detector: the labeled columns are replaced in every request."""
    columns = labeled_columns(case)
    if not (columns == columns[0]).all():
        return {"skipped": "the trigger has no fixed place"}
    return try_plan(case, _static(case, np.flatnonzero(columns[0])))


def _always_some(case: Case, say: Say) -> Figures:
    """The threshold that flags nearly every clean request somewhere."""
    if case.setting.detector == "static":
        return {"skipped": "every request is flagged as it is"}
    plan = replace(case.plan, telemetry=True)
    asked = case.ask(case.patched(plan))
    low, high = -40.0, float(np.log(max(plan.threshold, 1e-6) / max(1 - plan.threshold, 1e-6)))
    for _ in range(14):
        middle = (low + high) / 2
        rows = np.arange(min(len(case.spare), 200))
        share = asked.rows(case.spare, rows, 1 / (1 + np.exp(-middle))).flagged.mean()
        low, high = (middle, high) if share >= NEARLY_ALL else (low, middle)
    return try_plan(case, replace(plan, threshold=float(1 / (1 + np.exp(-low)))))


def _passes(passes: Passes) -> Callable[[Case, Say], Figures]:
    def run(case: Case, say: Say) -> Figures:
        if case.hotfix.passes == passes:  # the fit that chose it has made that very hotfix
            return _chosen(case, say)
        plan = case.hotfix.plan(case.sites, None)
        refusal = not_admitted(case.model, replace(plan, passes=passes, joint="any", mend="redistribute"), case.sites)
        if refusal is not None:
            return {"skipped": refusal.what}
        made = fitted(case, f"{passes}-pass", say, clean=case.spare, passes=passes)
        return {**made, **try_plan(case, Hotfix.load(case.hotfix_file(f"{passes}-pass")).plan(case.sites, None))}

    return run


def _mend(mend: Any) -> Callable[[Case, Say], Figures]:
    """Of the hotfix as fitted, its threshold included."""

    def run(case: Case, say: Say) -> Figures:
        if case.hotfix.passes == "one":
            return {"skipped": "there is no second run"}
        plan = case.hotfix.plan(case.sites, None, mend=mend)
        refusal = not_admitted(case.model, plan, case.sites)
        return try_plan(case, plan) if refusal is None else {"skipped": refusal.what}

    return run


def _accept(accept: Any) -> Callable[[Case, Say], Figures]:
    """Of the hotfix that `two passes` made."""

    def run(case: Case, say: Say) -> Figures:
        file = case.hotfix_file() if case.hotfix.passes == "two" else case.hotfix_file("two-pass")
        if not file.is_file():
            return {"skipped": "the graph does not admit two passes"}
        return try_plan(case, Hotfix.load(file).plan(case.sites, None, passes="two", accept=accept))

    return run


ABLATIONS: Mapping[str, Callable[[Case, Say], Figures]] = {
    "as fitted": _chosen,
    "random columns": _random_columns,
    "no rescaling": _no_rescaling,
    "redistribution": _mend("redistribute"),
    "excision": _mend("excise"),
    "own values": _values("own"),
    "benign values": _values("benign"),
    "mean attention": _mean_attention,
    "no attention": _zero_attention,
    "all sites": _all_sites,
    "always, labeled columns": _always,
    "always, some column": _always_some,
    "one pass": _passes("one"),
    "two passes": _passes("two"),
    "two passes, accept always": _accept("always"),
    "two passes, accept flip": _accept("flip"),
}


def without_rescaling(model: onnx.ModelProto) -> onnx.ModelProto:
    """A patched graph in which the unflagged columns keep their attention.

    Raises:
        ValueError: nothing that rescales it was found.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    changed = 0
    for _, body in walk_bodies(copy):
        for node in body.node:
            name = node.output[0] if node.output else ""
            # The divisor of rows that change, else 1.
            if node.op_type == "Where" and role_of(name) == "divisor":
                changes, _, one = node.input
                node.CopyFrom(helper.make_node("Where", [changes, one, one], [name], name=node.name))
                changed += 1
        changed += _keep_flagged_scores(body)
    if not changed:
        raise ValueError("the graph rescales nowhere")
    return copy


def _keep_flagged_scores(body: onnx.GraphProto) -> int:
    """Where a Softmax leaves flagged columns out, it gets all scores, and they are taken out of the map behind it.

    Returns: how many there are.
    """
    maker = {name: node for node in body.node for name in node.output}
    found = [one for one in body.node if one.op_type == "Softmax" and role_of(one.input[0]) == "scores"]
    for softmax in found:
        added, made = maker[softmax.input[0]], softmax.output[0]
        scores, hidden = added.input  # hidden: 0 at unflagged columns, so that e^hidden is 1 there, else 0
        added.CopyFrom(helper.make_node("Identity", [scores], list(added.output), name=added.name))
        softmax.output[0] = f"{made}/of_all"
        kept = helper.make_node("Exp", [hidden], [f"{made}/kept"])
        place = list(body.node).index(softmax) + 1
        body.node.insert(place, helper.make_node("Mul", [softmax.output[0], kept.output[0]], [made]))
        body.node.insert(place, kept)
    return len(found)


def _static(case: Case, columns: Any) -> PatchPlan:
    detector = Static(tuple(sorted(int(column) for column in columns)))
    sites = {name: replace(plan, detector=detector) for name, plan in case.plan.sites.items()}
    # What is known beforehand needs no first pass, and there are no scores to add up.
    return replace(case.plan, sites=sites, passes="one", accept="always", joint="any")


def _lengths(case: Case) -> Any:
    mask, columns = case.attacked.inputs.get("attention_mask"), case.debug.columns
    assert columns is not None
    return columns.shape[1] if mask is None else mask.sum(1)


def _mean(trials: list[Figures]) -> Figures:
    """Shares over all trials together."""
    pooled: Figures = {}
    for key, first in trials[0].items():
        found = [trial[key] for trial in trials]
        if "value" in first:
            values = [one["value"] for one in found]
            pooled[key] = {
                "value": float(np.mean(values)),
                "low": float(min(values)),
                "high": float(max(values)),
                "draws": len(values),
            }
        else:
            pooled[key] = _mean(found)
    return pooled


def _silent(step: str, done: int, total: int) -> None:
    pass
