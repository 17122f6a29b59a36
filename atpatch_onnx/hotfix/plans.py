"""From options to a `PatchPlan`: a hotfix where there is one, else a detector that needs no training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rewriters.errors import PLAN_IMPOSSIBLE
from rewriters.model.regular_files import check_source
from rewriters.plan import BenignPair, Detector, OnnxGraph, PatchPlan, SitePlan, Smoothing, Static, Statistic
from rewriters.sites import Site

from ..errors import NO_SUCH_FILE
from .container import SUFFIX
from .matching import matching_sites
from .options import PatchOptions, Values, benign_level

if TYPE_CHECKING:
    from .file import Hotfix

__all__ = [
    "SMOOTHING_WORTH",
    "STATISTIC_THRESHOLD",
    "STATISTIC_WORTH",
    "UNTRAINED",
    "fitted_plan",
    "hotfix_next_to",
    "untrained_plan",
]

STATISTIC_THRESHOLD = 8.0
"""Robust z-score above which the training-free detector flags a column. Conservative: without data the false-flag rate
of a model is unknown, and the highest score of a few dozen columns exceeds 4 or 5 by chance.
"""

UNTRAINED = Statistic(rows=8, by_values=True)
"""The training-free detector, for a model without a hotfix. At least eight rows: the mean of fewer rows depends on
single ones, as at the last tokens of a decoder, which only their neighbors can see.
"""

STATISTIC_WORTH = (
    "On short texts (SST-2, four models) it flagged 2 to 20 of 100 clean ones, on longer ones 35 to 76; where a rare"
    " word is the trigger it left 14 of 100 attacks and cost up to .7 points of accuracy (with --passes two 8 attacks"
    " and up to 2 points)."
)
"""What the training-free detector did in measurements, shown to people who use it."""

SMOOTHING_WORTH = (
    "smoothing is for experiments: on SmolLM2-135M with a backdoor it left 28 of 30 attacks and changed 31 of 100 clean"
    " answers (models/results/DECODERS.md); each prompt costs its whole attention maps."
    " 'atpatch-onnx fit MODEL --debug SET.npz' with --mend heal makes a hotfix that repairs decoders"
)
"""What smoothing did in measurements, shown to people who use it."""

SMOOTHING_THRESHOLD = 0.0
"""Robust z-score of a head's tail above which it is suspicious: half of the heads. Higher ones left the attacks."""

ONNX_THRESHOLD = 0.5
"""For a user's detector. Its scores are read as probabilities unless a threshold is given."""


def hotfix_next_to(model: Path) -> Path | None:
    """`model.hotfix` next to `model.onnx` or `model.patched.onnx`, if it exists."""
    candidate = model.with_name(model.name.removesuffix(".onnx").removesuffix(".patched") + SUFFIX)
    return candidate if os.path.lexists(candidate) else None


def fitted_plan(hotfix: Hotfix, sites: Sequence[Site], weights: str | None, options: PatchOptions) -> PatchPlan:
    """The plan of a hotfix, changed as the options say.

    Args:
        sites: all sites of the model, in the finder's order; filters are applied to the plan afterwards.
        weights: `rewriters.model.io.weights_digest` of the model; None skips that comparison.

    Raises:
        AtpatchError: ATP054 where the hotfix was made for another model, ATP060 for an impossible override.
    """
    matched = matching_sites(hotfix, sites, weights, options.force)
    level = benign_level(hotfix.level if options.benign is None else options.benign)
    if options.passes == "one" and hotfix.joint == "sum":
        raise PLAN_IMPOSSIBLE(
            "the hotfix adds up scores of its sites, which takes two passes", "fit one with --passes one"
        )
    ids = {mine.id: theirs.id for mine, theirs in matched}
    alarm = hotfix.alarm
    if alarm is not None:  # with --force the model may lack a site
        layers = [replace(layer, site=ids[layer.site]) for layer in alarm.layers if layer.site in ids]
        alarm = replace(alarm, layers=tuple(layers)) if len(layers) == len(alarm.layers) else None
    groups = (tuple(ids[name] for name in group if name in ids) for group in hotfix.groups)
    calibrated = PatchPlan(
        sites={theirs.id: _adjusted(mine.plan, level, options.values) for mine, theirs in matched},
        threshold=hotfix.threshold,
        companion=hotfix.companion,
        most=hotfix.most,
        wider=hotfix.wider,
        margin=hotfix.margin,
        passes=hotfix.passes,
        groups=tuple(group for group in groups if group),
        joint=hotfix.joint,
        mend=hotfix.mend,
        closes_up=hotfix.closes_up,
        accept=hotfix.accept,
        lengths=(hotfix.lengths["shortest"], hotfix.lengths["longest"]) if hotfix.lengths else None,
        alarm=alarm,
        digest=hotfix.digest,
    )
    return _overridden(calibrated, options)


def untrained_plan(sites: Sequence[Site], options: PatchOptions, groups: tuple[tuple[str, ...], ...] = ()) -> PatchPlan:
    """The same detector and benign reference at every site, from no data at all.

    The benign value is the mean of the sample's own unflagged values, the benign attention a multiple of uniform.

    Args:
        groups: see `rewriters.finding.token_groups.token_groups`.
    """
    detector, threshold = _detector(options)
    level = benign_level("mean" if options.benign is None else options.benign)
    pair = BenignPair(np.array([level], np.float32), None, own_values=options.values == "own")
    plan = PatchPlan({site.id: SitePlan(detector, pair) for site in sites}, threshold=threshold, groups=groups)
    return _overridden(plan, options)


def _overridden(plan: PatchPlan, options: PatchOptions) -> PatchPlan:
    """The plan with the options that concern the plan as a whole."""
    # flags come before the first layer, so healing takes two
    passes = options.passes or ("two" if options.mend == "heal" else plan.passes)
    accept = options.accept or plan.accept
    return replace(
        plan,
        threshold=plan.threshold if options.threshold is None else options.threshold,
        passes=passes,
        mend=options.mend or plan.mend,
        accept=accept,
        wider=plan.wider if accept == "flip" else 0,
        gating=options.gating_of(passes),
        telemetry=options.telemetry,
        span=options.span,
        controls=options.control_inputs,
    )


def _detector(options: PatchOptions) -> tuple[Detector, float]:
    if options.detector == "static":
        return Static(tuple(sorted(set(options.columns or ())))), 0.0
    if options.detector == "smoothing":
        return Smoothing(), SMOOTHING_THRESHOLD
    if options.detector_model is not None:
        try:
            return OnnxGraph(check_source(options.detector_model).read_bytes()), ONNX_THRESHOLD
        except OSError as error:
            raise NO_SUCH_FILE(f"{options.detector_model} cannot be read: {error.strerror}") from error
    return UNTRAINED, STATISTIC_THRESHOLD


def _adjusted(plan: SitePlan, level: float, values: Values | None) -> SitePlan:
    pair = replace(plan.benign, attention=plan.benign.attention * np.float32(level))
    if values is not None:
        pair = replace(pair, own_values=values == "own")
    return replace(plan, benign=pair)
