"""Cost of a request: one sample, one thread, original and other taking turns; a ratio with a bootstrap interval over
requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.benchmark.paired_latency import Request, paired_latency
from atpatch_onnx.inference.datasets import DataSet, Ints
from atpatch_onnx.inference.sessions import session

from .answers import Figures
from .case import Case

__all__ = ["Feeds", "Make", "latency_step", "lone", "ratio", "requests", "samples"]

REQUESTS, PAIRS = 12, 40
FEW = 6
"""Requests by which a peer is timed."""

Feeds = dict[str, NDArray[Any]]
Make = Callable[[Feeds], Request]
"""One sample's inputs → a request to time."""


def latency_step(case: Case, say: Callable[[str], None]) -> Figures:
    """Ratio patched / original for requests that nothing flags, and for those that are flagged; without telemetry."""
    asked = case.ask(case.patched(replace(case.plan, telemetry=True)))
    original, patched = requests(case, None), requests(case, case.patched(case.plan))
    figures: Figures = {}
    for name, data, wanted in (("clean", case.clean, False), ("flagged", case.attacked, True)):
        rows = _some(case, data, lambda part, data=data: asked.rows(data, part).flagged, wanted)
        if len(rows):
            say(f"{len(rows)} {name} requests")
            figures[name] = ratio(original, patched, [lone(data, row) for row in rows])
    return figures


def requests(case: Case, model: Any | None) -> Make:
    """Requests to one single-threaded session on a graph, None for the original; outputs are the original's."""
    live = session(case.model if model is None else model, threads=1, folder=case.folder)
    names = [output.name for output in case.model.graph.output]
    wanted = [value.name for value in live.get_inputs()]

    def make(feeds: Feeds) -> Request:
        feeds = {name: feeds[name] for name in wanted}
        return lambda: live.run(names, feeds)

    return make


def lone(data: DataSet, row: int) -> Feeds:
    """One sample as it would be asked alone: texts without padding."""
    feeds = data.feeds(np.array([row]))
    if "attention_mask" not in feeds:
        return feeds
    length = int(feeds["attention_mask"].sum())
    return {name: array[:, :length] for name, array in feeds.items()}


def samples(case: Case) -> list[Feeds]:
    """The first few clean requests, each alone."""
    return [lone(case.clean, row) for row in range(FEW)]


def ratio(original: Make, other: Make, samples: list[Feeds]) -> Figures:
    """Median ratio other / original over samples, with a 95 % interval; milliseconds of either."""
    from scipy.stats import bootstrap

    found = [paired_latency(original(feeds), other(feeds), pairs=PAIRS) for feeds in samples]
    ratios = np.array([one.ratio.median for one in found])
    interval = (
        bootstrap((ratios,), np.median, rng=0, method="percentile").confidence_interval
        if len(ratios) > 1
        else (ratios[0],) * 2
    )
    return {
        "ratio": float(np.median(ratios)),
        "low": float(interval[0]),
        "high": float(interval[1]),
        "original_ms": float(np.median([one.original.median for one in found])),
        "other_ms": float(np.median([one.patched.median for one in found])),
        "requests": len(ratios),
        "pairs": PAIRS,
    }


def _some(case: Case, data: DataSet, flagged: Callable[[Ints], NDArray[np.bool_]], wanted: bool) -> Ints:
    """Rows drawn at random among those flagged, or not."""
    order = case.generator().permutation(len(data))[:512]
    return order[flagged(order) == wanted][:REQUESTS]
