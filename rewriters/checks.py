"""Does a plan fit a model? Asked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from .errors import OPSET_TOO_OLD, PLAN_MISFIT
from .model.io import MIN_OPSET
from .plan import OneClass, PatchPlan, Profile, SitePlan, Static
from .sites import Site, Where

__all__ = ["check_plan", "opset_of"]


_NO_NUMBERS = (TensorProto.STRING, TensorProto.BOOL, TensorProto.COMPLEX64, TensorProto.COMPLEX128)


def opset_of(model: onnx.ModelProto, where: Where) -> int:
    """Version of the default domain in a body; functions import their own."""
    imports = model.opset_import
    if where and where[0][1] == "function":
        imports = model.functions[where[0][0]].opset_import
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 1)


def check_plan(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> None:
    """Raises: AtpatchError ATP006 for an opset below `model_io.MIN_OPSET`, ATP015 where arrays do not match a site."""
    known = {site.id: site for site in sites}
    unknown = [name for name in plan.sites if name not in known]
    if unknown:
        raise PLAN_MISFIT(f"the plan names sites that the model lacks: {', '.join(unknown[:3])}")
    grouped = [name for group in plan.groups for name in group]
    stray = [name for name in grouped if name not in plan.sites or grouped.count(name) > 1]
    if stray:
        raise PLAN_MISFIT(f"site {stray[0]} is in a group without a plan, or in two groups")
    if plan.passes == "two" and not grouped:
        raise PLAN_MISFIT(
            "two passes need a group of sites whose key columns are the same tokens", "patch with --passes one"
        )
    if not 0 < plan.companion <= 1:
        raise PLAN_MISFIT(f"a companion factor of {plan.companion} is not in (0, 1]")
    if plan.joint == "sum" and plan.passes == "one":
        raise PLAN_MISFIT("sites add up their scores in two passes only", "patch with --passes two")
    if plan.joint == "sum" and len({type(one.detector) for one in plan.sites.values()} - {Static}) > 1:
        raise PLAN_MISFIT("sites add up scores of one kind of detector")
    if plan.passes == "two" and any(known[name].where for name in grouped):
        raise PLAN_MISFIT("two passes join sites of the main graph only")
    for name, site_plan in plan.sites.items():
        site = known[name]
        opset = opset_of(model, site.where)
        if opset < MIN_OPSET:
            raise OPSET_TOO_OLD(f"opset {opset}; patching needs {MIN_OPSET} or newer")
        for problem in _problems(site, site_plan):
            raise PLAN_MISFIT(f"site {name}: {problem}")


def _problems(site: Site, plan: SitePlan) -> list[str]:
    heads = site.heads if site.layout.has_heads else 1
    pair = plan.benign
    found = []
    if site.dtype in _NO_NUMBERS:
        found.append(f"its values are of type {TensorProto.DataType.Name(site.dtype)}, which cannot be weighed")
    if not np.isfinite(pair.attention).all() or (pair.attention < 0).any():
        found.append("benign attention must be finite and not negative")
    if pair.attention.ndim not in (1, 3):
        found.append(f"benign attention has {pair.attention.ndim} axes, not 1 (relative) or 3 (per column)")
    elif heads is not None and pair.attention.shape[0] not in (1, heads):
        found.append(f"benign attention is for {pair.attention.shape[0]} heads, the site has {heads}")
    if pair.values is not None:
        if pair.values.ndim != 3:
            found.append(f"benign values have {pair.values.ndim} axes, not 3")
        else:
            if heads is not None and pair.values.shape[0] not in (1, heads):
                found.append(f"benign values are for {pair.values.shape[0]} heads, the site has {heads}")
            if site.layout.widths > 1:
                found.append("benign values need one axis of width, the site's values have several")
            if site.head_dim is not None and pair.values.shape[2] != site.head_dim:
                found.append(f"benign values are {pair.values.shape[2]} wide, the site's are {site.head_dim}")
    if isinstance(plan.detector, (Profile, OneClass)) and heads is not None:
        features = heads * (1 + len(plan.detector.probes))
        if plan.detector.every < 1:
            found.append(f"the detector reads every {plan.detector.every}th row; 1 is all of them")
        if plan.detector.mean.shape[-1] != features:
            found.append(f"the detector reads {plan.detector.mean.shape[-1]} features, the site has {features}")
    return found
