"""Does a plan fit a model? Asked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from .errors import OPSET_TOO_OLD, PLAN_IMPOSSIBLE, PLAN_MISFIT, AtpatchError
from .model.io import MIN_OPSET
from .plan import Detector, NormDistance, OneClass, PatchPlan, Profile, SitePlan, Smoothing, Static
from .sites import Site, Where

__all__ = ["opset_of", "plan_refusal"]


def opset_of(model: onnx.ModelProto, where: Where) -> int:
    """Version of the default domain in a body; functions import their own."""
    imports = model.opset_import
    if where and where[0][1] == "function":
        imports = model.functions[where[0][0]].opset_import
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 1)


def plan_refusal(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> AtpatchError | None:
    """Why the plan is not for this model: ATP006 for an opset below `model_io.MIN_OPSET`, ATP015 where sites or arrays
    do not match, ATP024 for a plan that fits no model; None where it is.
    """
    known = {site.id: site for site in sites}
    unknown = [name for name in plan.sites if name not in known]
    if unknown:
        return PLAN_MISFIT(f"the plan names sites that the model lacks: {', '.join(unknown[:3])}")
    if (problem := _contradiction(plan)) is not None:
        return problem
    if plan.mend == "heal":
        bodies = [{known[name].where for name in group} for group in plan.groups]
        if any(len(body) > 1 for body in bodies) or len(set().union(*bodies)) < len(bodies):
            return PLAN_IMPOSSIBLE(
                "healing has one group of detecting sites, over the tokens of the decoder; in a merged decoder one in"
                " each branch"
            )
    for name, site_plan in plan.sites.items():
        opset = opset_of(model, known[name].where)
        if opset < MIN_OPSET:
            return OPSET_TOO_OLD(f"opset {opset}; patching needs {MIN_OPSET} or newer")
        if problems := _impossible(site_plan):
            return PLAN_IMPOSSIBLE(f"site {name}: {problems[0]}")
        if problems := _misfits(known[name], site_plan):
            return PLAN_MISFIT(f"site {name}: {problems[0]}")
    return None


def _contradiction(plan: PatchPlan) -> AtpatchError | None:
    """What the parts of a plan say against each other, whatever the model."""
    grouped = [name for group in plan.groups for name in group]
    stray = [name for name in grouped if name not in plan.sites or grouped.count(name) > 1]
    if stray:
        return PLAN_IMPOSSIBLE(f"site {stray[0]} is in a group without a plan, or in two groups")
    if plan.passes == "two" and not grouped:
        return PLAN_IMPOSSIBLE(
            "two passes need a group of sites whose key columns are the same tokens", "patch with --passes one"
        )
    if plan.passes == "two" and any(isinstance(one.detector, Smoothing) for one in plan.sites.values()):
        return PLAN_IMPOSSIBLE("smoothing flags no columns for a second pass", "patch with --passes one")
    if not 0 < plan.companion <= 1:
        return PLAN_IMPOSSIBLE(f"a companion factor of {plan.companion} is not in (0, 1]")
    if plan.most < 0 or (plan.most and plan.joint != "sum"):
        return PLAN_IMPOSSIBLE(
            f"a limit of {plan.most} columns needs sites that add up their scores, and a number >= 0"
        )
    if plan.wider < 0 or (plan.wider and (plan.joint != "sum" or plan.accept != "flip" or plan.wider <= plan.most)):
        return PLAN_IMPOSSIBLE(
            f"a second try with {plan.wider} columns needs sites that add up their scores, answers that are accepted"
            " only where they flip, and more columns than the first try"
        )
    if not plan.margin >= 0 or (plan.margin and plan.joint != "sum"):
        return PLAN_IMPOSSIBLE(
            f"a margin of {plan.margin} between class scores needs sites that add up their scores, and a number >= 0"
        )
    if plan.alarm is not None:
        layers = plan.alarm.layers
        if not layers or len({layer.site for layer in layers}) < len(layers):
            return PLAN_IMPOSSIBLE("an alarm needs layers, each of them once")
    if plan.mend == "heal":
        if plan.alarm is not None:
            return PLAN_IMPOSSIBLE("an alarm reads states of a whole first run, and healing has none", "leave it out")
        if plan.margin:
            return PLAN_IMPOSSIBLE("healing flags before there are class scores, so there is no margin between them")
        if plan.passes == "one":
            return PLAN_IMPOSSIBLE("healing takes two passes: flags come before the first layer", "add --passes two")
        if plan.accept == "flip":
            return PLAN_IMPOSSIBLE("healing has no second answer to compare with", "leave --accept flip out")
        if stray := [name for name in plan.sites if name not in grouped]:
            return PLAN_IMPOSSIBLE(f"site {stray[0]} is in no group, and healing has no patch of single sites")
    if plan.joint == "sum":
        if plan.passes == "one":
            return PLAN_IMPOSSIBLE("sites add up their scores in two passes only", "patch with --passes two")
        if len({type(one.detector) for one in plan.sites.values()} - {Static}) > 1:
            return PLAN_IMPOSSIBLE("sites add up scores of one kind of detector")
        for group in plan.groups:
            if all(isinstance(plan.sites[name].detector, Static) for name in group):
                return PLAN_IMPOSSIBLE("sites are to add up their scores, and none of a group has a detector")
    return None


def _impossible(plan: SitePlan) -> list[str]:
    """What no site can have."""
    pair, found = plan.benign, []
    if not np.isfinite(pair.attention).all() or (pair.attention < 0).any():
        found.append("benign attention must be finite and not negative")
    if pair.attention.ndim not in (1, 3):
        found.append(f"benign attention has {pair.attention.ndim} axes, not 1 (relative) or 3 (per column)")
    if pair.values is not None and pair.values.ndim != 3:
        found.append(f"benign values have {pair.values.ndim} axes, not 3")
    if isinstance(plan.detector, (Profile, OneClass)) and plan.detector.every < 1:
        found.append(f"the detector reads every {plan.detector.every}th row; 1 is all of them")
    detector = plan.detector
    if isinstance(detector, Smoothing):
        shares = (detector.tail, detector.weak, detector.strong)
        if not all(0 <= share <= 1 for share in shares) or detector.rows < 1 or not detector.floor > 0:
            found.append("smoothing needs shares in [0, 1], one row at least and a positive floor")
    if isinstance(detector, (Profile, OneClass)) and detector.answer_row and (detector.probes or detector.every != 1):
        found.append("the detector reads the answer row, and next to it no other row can be read")
    if isinstance(detector, OneClass) and not detector.fits_lengths:
        found.append("factors by length need rising lengths and positive factors")
    if isinstance(detector, Profile) and detector.seeing_rows and not detector.answer_row:
        found.append("the detector reads the rows that see a column only next to the answer row")
    return found


def _misfits(site: Site, plan: SitePlan) -> list[str]:
    """Where the arrays of a plan that is possible do not match this site."""
    heads = site.heads if site.layout.has_heads else 1
    pair, found = plan.benign, []
    if heads is not None and pair.attention.shape[0] not in (1, heads):
        found.append(f"benign attention is for {pair.attention.shape[0]} heads, the site has {heads}")
    if pair.values is not None:
        if heads is not None and pair.values.shape[0] not in (1, heads):
            found.append(f"benign values are for {pair.values.shape[0]} heads, the site has {heads}")
        if site.layout.widths > 1:
            found.append("benign values need one axis of width, the site's values have several")
        if site.head_dim is not None and pair.values.shape[2] != site.head_dim:
            found.append(f"benign values are {pair.values.shape[2]} wide, the site's are {site.head_dim}")
    if isinstance(plan.detector, (Profile, OneClass)) and heads is not None:
        features = heads * plan.detector.map_blocks
        if plan.detector.map_features != features:
            found.append(f"the detector reads {plan.detector.map_features} features, the site has {features}")
    return found + _norm_misfits(site, plan.detector, heads)


def _norm_misfits(site: Site, detector: Detector, heads: int | None) -> list[str]:
    """Where the norms that a detector reads do not match the values of this site."""
    if not isinstance(detector, (Profile, OneClass)) or detector.norms is None:
        return []
    norms, found = detector.norms, []
    if isinstance(norms, NormDistance):
        if heads is not None and norms.mean.shape[-1] != heads:
            found.append(f"the detector reads {norms.mean.shape[-1]} norms, the site has {heads} heads")
        norms = norms.norms
    if norms.factor is None:
        return found
    if heads is not None and norms.factor.shape[0] not in (1, heads):
        found.append(f"the norms are of {norms.factor.shape[0]} heads, the site has {heads}")
    if site.layout.widths > 1:
        found.append("norms behind a projection need one axis of width, the site's values have several")
    if site.head_dim is not None and norms.factor.shape[1] != site.head_dim:
        found.append(f"the norms are of values {norms.factor.shape[1]} wide, the site's are {site.head_dim}")
    return found
