"""Latency as requests see it: rows sent one by one through all graphs in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.datasets import DataSet, Ints
from .graph_runs import Graph
from .outputs import Outputs

__all__ = ["latency_json", "spread", "spread_over", "time_both", "time_requests"]

WARM_UP = 3
FEWEST = 10
REQUESTS = 200


def time_both(
    graphs: Sequence[Graph], sets: Mapping[str, DataSet], patched: Mapping[str, Outputs], seconds: float
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Seconds a request of unflagged rows of the set "clean", and of flagged rows of the set that has most of them:
    "clean" and "flagged" → graph → (R,); without what the data do not give.

    Args:
        patched: what the patched graph gave on the sets.
        seconds: to spend on each of the two.
    """
    found = {}
    flags = patched["clean"].flagged
    calm = np.arange(len(sets["clean"])) if flags is None else np.flatnonzero(~flags)
    if len(calm):
        found["clean"] = time_requests(graphs, sets["clean"], spread_over(calm), seconds)
    hit = {name: np.flatnonzero(run.flagged) for name, run in patched.items() if run.flagged is not None}
    most = max(hit, key=lambda name: len(hit[name]), default=None)
    if most is not None and len(hit[most]):
        found["flagged"] = time_requests(graphs, sets[most], spread_over(hit[most]), seconds)
    return found


def spread_over(rows: Ints, count: int = REQUESTS) -> Ints:
    """So many rows spread over all; rows repeat where there are fewer."""
    places = (
        np.linspace(0, len(rows) - 1, count).astype(np.int64) if len(rows) >= count else np.arange(count) % len(rows)
    )
    return np.asarray(rows[places])


def time_requests(graphs: Sequence[Graph], data: DataSet, rows: Ints, seconds: float) -> dict[str, NDArray[np.float64]]:
    """Seconds a request, graph by graph, (R,) in the order of the rows; R is as many as fit the time, `FEWEST` at
    least.

    A graph with a fixed sample axis gets its row repeated to fill it.
    """
    taken: dict[str, list[float]] = {graph.name: [] for graph in graphs}
    end = time.perf_counter() + seconds
    for number, row in enumerate(rows[:1].repeat(WARM_UP).tolist() + rows.tolist()):
        if number >= WARM_UP + FEWEST and time.perf_counter() > end:
            break
        for graph in (*graphs[number % len(graphs) :], *graphs[: number % len(graphs)]):
            feeds = graph.runner.feeds(data, np.array([row]))
            start = time.perf_counter()
            graph.runner.run(feeds, graph.own_outputs)
            if number >= WARM_UP:
                taken[graph.name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in taken.items()}


def spread(values: NDArray[np.float64], scale: float = 1.0) -> dict[str, float]:
    """Median, quartiles and 95th percentile."""
    low, median, high, slow = np.quantile(values * scale, [0.25, 0.5, 0.75, 0.95])
    return {"median": float(median), "low": float(low), "high": float(high), "p95": float(slow)}


def latency_json(seconds: Mapping[str, NDArray[np.float64]], original: str, other: str) -> dict[str, Any]:
    """Milliseconds of both and the ratio taken request by request."""
    return {
        original: spread(seconds[original], 1e3),
        other: spread(seconds[other], 1e3),
        "ratio": spread(seconds[other] / seconds[original]),
        "requests": len(seconds[original]),
    }
