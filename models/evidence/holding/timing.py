"""What it costs that fits on clean rows score equal tokens together: a step of size K × K at each site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from atpatch_onnx.benchmark.paired_latency import Request
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.sessions import session
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.names import THRESHOLD
from rewriters.plan import OneClass, PatchPlan, SitePlan

from ..answers import Figures
from ..latency import Feeds, lone, ratio
from .case import Words
from .material import encode, reviews

__all__ = ["equal_tokens"]

TOKENS = (128, 256, 512)
REQUESTS = 4
"""Film reviews of each length, cut to it."""
POOL = 400
NEVER, ALWAYS = 1e9, -1.0
"""Thresholds: no request is flagged, or each."""


def equal_tokens(case: Words) -> Figures:
    """Times of the hotfix of `clean-rows` with and without that step, on one thread, taking turns."""
    header = case.fit("clean", "--clean", case.clean_set())
    model = model_io.load(case.model)
    sites, _ = find_sites(model)
    digest = model_io.weights_digest(model, case.model.parent)
    plan = Hotfix.load(case.hotfix("clean")).plan(sites, digest)
    graphs = {"with": patch(model, plan, sites), "without": patch(model, _each_alone(plan), sites)}
    found: Figures = {"hotfix": header}
    for length in TOKENS:
        samples = _samples(case, length)
        for name, threshold in (("nothing flagged", NEVER), ("flagged", ALWAYS)):
            with_step, without = (_requests(case, model, graphs[one], threshold) for one in ("with", "without"))
            found[f"{length} tokens, {name}"] = {
                "with / without": ratio(without, with_step, samples),
                "with / original": ratio(_requests(case, model, model, None), with_step, samples),
            }
    return found


def _samples(case: Words, length: int) -> list[Feeds]:
    data = encode(case.subject, reviews(POOL), length)
    full = np.flatnonzero(data.inputs["attention_mask"].sum(1) == length)[:REQUESTS]
    return [lone(data, row) for row in full]


def _each_alone(plan: PatchPlan) -> PatchPlan:
    """The same detectors, each token scored by itself."""

    def alone(site: SitePlan) -> SitePlan:
        detector = site.detector
        return replace(site, detector=replace(detector, tokens=None)) if isinstance(detector, OneClass) else site

    return replace(plan, sites={name: alone(site) for name, site in plan.sites.items()})


def _requests(
    case: Words, model: onnx.ModelProto, graph: onnx.ModelProto, threshold: float | None
) -> Callable[[Feeds], Request]:
    live = session(graph, threads=1, folder=case.model.parent)
    names = [output.name for output in model.graph.output]
    wanted = {value.name for value in live.get_inputs()}
    more: dict[str, Any] = {} if threshold is None else {THRESHOLD: np.array(threshold, np.float32)}

    def make(feeds: Feeds) -> Request:
        asked = {name: array for name, array in feeds.items() if name in wanted} | more
        return lambda: live.run(names, asked)

    return make
