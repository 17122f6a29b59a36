"""Runs several graphs on the same rows, batch by batch in turn: outputs, differences from the original, times."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.editing.observe import observe
from rewriters.model.forms import Loaded
from rewriters.names import ALARM, FLAGGED, columns_output, is_telemetry

from ..inference.datasets import DataSet, Ints
from ..inference.reading import Classes, Reader
from ..inference.runner import Runner
from .outputs import Outputs

__all__ = ["ORIGINAL", "PATCHED", "Graph", "Progress", "difference", "run_graphs"]

ORIGINAL, PATCHED = "original", "patched"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph ready to run.

    Attributes:
        name: "original", "patched", or what the user calls it.
        runner: on the unchanged graph.
        observer: on a graph with flags as outputs; the same as `runner` if that has them, None where nothing can be
            observed.
        sites: ids of the observed sites.
        untold: why nothing can be observed; "" where it can.
        caches: outputs of a decoder that are no answer.
        classes: makes classes of the scores; None: the scores are of classes.
    """

    name: str
    runner: Runner
    observer: Runner | None = None
    sites: tuple[str, ...] = ()
    untold: str = ""
    caches: frozenset[str] = frozenset()
    classes: Classes | None = None

    @classmethod
    def of(cls, name: str, model: Loaded, threads: int | None = None, providers: Sequence[str] | None = None) -> Graph:
        """A session of a model, and where its flags are no outputs a second one that shows them."""
        runner = Runner(model.proto, model.folder, threads, providers=providers)
        seen = observe(model.proto)
        if not seen.sites:
            return cls(name, runner, untold=seen.reason)
        copied = seen.model is not model.proto
        observer = Runner(seen.model, model.folder, threads, providers=providers) if copied else runner
        return cls(name, runner, observer, seen.sites)

    def answering(self, reader: Reader | None, caches: frozenset[str] = frozenset()) -> Graph:
        """The graph with a runner that reads the answer off an output."""
        runner = self.runner.answering(reader)
        observer = runner if self.observer is self.runner else self.observer
        return replace(self, runner=runner, observer=observer, caches=caches)

    @property
    def alarms(self) -> list[str]:
        """The output with its alarms, if it has one."""
        return [ALARM] if ALARM in self.runner.outputs else []

    @property
    def own_outputs(self) -> list[str]:
        """The outputs that the original has too."""
        return [name for name in self.runner.outputs if not is_telemetry(name) and name not in self.caches]


def run_graphs(
    graphs: Sequence[Graph], data: DataSet, batch: int, scores: str | None, step: str, progress: Progress | None = None
) -> dict[str, Outputs]:
    """Run all graphs, the first being the original, over a data set.

    Args:
        batch: rows in one run.
        scores: output with the class scores, None for a model without classes.
        step, progress: called with step, rows done, rows in all.

    Returns: graph name → outputs.

    Raises:
        AtpatchError: ATP052 (onnxruntime fails), ATP056 (the data do not fit a graph).
    """
    size = graphs[0].runner.fixed_batch or graphs[0].runner.at_most(data, batch)
    kept: dict[str, dict[str, list[NDArray[Any]]]] = {graph.name: defaultdict(list) for graph in graphs}
    compared = [name for name in graphs[0].own_outputs if all(name in graph.own_outputs for graph in graphs)]
    for number, start in enumerate(range(0, len(data), size)):
        rows = np.arange(start, min(start + size, len(data)))
        given: dict[str, dict[str, NDArray[Any]]] = {}
        # The order changes, so that no graph always has warm caches.
        for graph in (*graphs[number % len(graphs) :], *graphs[: number % len(graphs)]):
            given[graph.name] = _run(graph, data, rows, kept[graph.name])
        for graph in graphs:
            mine, theirs = given[graph.name], given[graphs[0].name]
            if scores is not None:
                found = mine[scores][: len(rows)].astype(np.float32)
                kept[graph.name]["scores"].append(found if graph.classes is None else graph.classes.scores(rows, found))
            for name in compared if graph is not graphs[0] else ():
                if (apart := difference(theirs[name], mine[name], len(rows))) is not None:
                    kept[graph.name]["difference/" + name].append(apart)
        if progress is not None:
            progress(step, int(rows[-1]) + 1, len(data))
    return {graph.name: _joined(graph, kept[graph.name]) for graph in graphs}


def _run(graph: Graph, data: DataSet, rows: Ints, kept: Mapping[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    feeds = graph.runner.feeds(data, rows)
    observes = graph.observer is graph.runner
    flags = [FLAGGED, *map(columns_output, graph.sites)] if graph.observer else []
    start = time.perf_counter()
    outputs = graph.runner.run(feeds, [*graph.own_outputs, *graph.alarms, *(flags if observes else [])])
    kept["seconds"].append(np.array([time.perf_counter() - start]))
    seen = outputs if observes else graph.observer.run(feeds, flags) if graph.observer else {}
    batch = len(next(iter(feeds.values())))
    for name in flags:
        # The first axis of a map may count windows besides samples.
        array = np.asarray(seen[name].reshape(batch, -1, seen[name].shape[-1]).any(1))
        kept[name].append(array[: len(rows)])
    for name in graph.alarms:
        kept[name].append(outputs[name][: len(rows)])
    return outputs


def _joined(graph: Graph, kept: Mapping[str, list[NDArray[Any]]]) -> Outputs:
    whole = {name: np.concatenate(parts) for name, parts in kept.items()}
    return Outputs(
        whole.get("scores"),
        whole.get(FLAGGED),
        {site: whole[name] for site in graph.sites if (name := columns_output(site)) in whole},
        {name.removeprefix("difference/"): array for name, array in whole.items() if name.startswith("difference/")},
        whole["seconds"],
        alarms=whole.get(ALARM),
    )


def difference(original: Any, other: Any, rows: int) -> NDArray[np.float64] | None:
    """(rows, 3): greatest and mean absolute difference, cosine; equal values, NaN and infinity among them, do not
    differ.

    None where there is nothing to subtract: strings, sequences, other shapes, no sample axis.
    """
    if not all(
        isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.ndim for array in (original, other)
    ):
        return None
    if original.shape != other.shape or len(original) < rows:
        return None
    a, b = (array[:rows].reshape(rows, -1).astype(np.float64) for array in (original, other))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(a - b))
    apart = np.where(np.isnan(apart), np.inf, apart)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1.0), (a == b).all(1))
    cosine = np.where(same.all(1), 1.0, np.clip(cosine, -1.0, 1.0))
    return np.stack([apart.max(1, initial=0.0), apart.mean(1) if apart.shape[1] else np.zeros(rows), cosine], 1)
