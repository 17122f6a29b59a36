"""What it costs that fits on clean rows score equal tokens together: a step of size K × K at each site."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
from ..latency import Feeds, lone
from .case import Words
from .material import encode, reviews

__all__ = ["equal_tokens", "ratio"]

TOKENS = (128, 256, 512)
REQUESTS, PAIRS, WARM_UP = 3, 20, 1
"""Film reviews of each length, cut to it; times that two graphs take turns on each."""
POOL = 400
Make = Callable[[Feeds], Request]
NEVER, ALWAYS = 1e9, -1.0
"""Thresholds: no request is flagged, or each."""


def equal_tokens(case: Words) -> Figures:
    """Processor time of the hotfix of `clean-rows` with and without that step, on one thread, taking turns."""
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
            original, with_step, without = (
                _requests(case, model, graph, limit)
                for graph, limit in ((model, None), (graphs["with"], threshold), (graphs["without"], threshold))
            )
            found[f"{length} tokens, {name}"] = {
                "with / without": ratio(without, with_step, samples),
                "with / original": ratio(original, with_step, samples),
            }
    return found


def ratio(first: Make, second: Make, samples: Sequence[Feeds]) -> Figures:
    """Median ratio second / first of processor times over all pairs, with quartiles; milliseconds of the first.

    Not the time on the clock, which on a machine that is shared is mostly that of others.
    """
    times = np.array([pair for feeds in samples for pair in _pairs(first(feeds), second(feeds))])
    low, middle, high = np.quantile(times[:, 1] / times[:, 0], [0.25, 0.5, 0.75])
    return {
        "ratio": float(middle),
        "low": float(low),
        "high": float(high),
        "first_ms": 1e3 * float(np.median(times[:, 0])),
        "requests": len(samples),
        "pairs": PAIRS,
    }


def _pairs(first: Request, second: Request) -> list[tuple[float, float]]:
    for run in (first, second) * WARM_UP:
        run()
    found = []
    for pair in range(PAIRS):
        spent = {}
        for run in (first, second) if pair % 2 else (second, first):
            started = time.thread_time()
            run()
            spent[run] = time.thread_time() - started
        found.append((spent[first], spent[second]))
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


def _requests(case: Words, model: onnx.ModelProto, graph: onnx.ModelProto, threshold: float | None) -> Make:
    live = session(graph, threads=1, folder=case.model.parent)
    names = [output.name for output in model.graph.output]
    wanted = {value.name for value in live.get_inputs()}
    more: dict[str, Any] = {} if threshold is None else {THRESHOLD: np.array(threshold, np.float32)}

    def make(feeds: Feeds) -> Request:
        asked = {name: array for name, array in feeds.items() if name in wanted} | more
        return lambda: live.run(names, asked)

    return make
