"""What a hotfix costs on the rows that it was fitted on: requests of the original and the patched graph, in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewriters.model.forms import Loaded, PathLike, read

from ..hotfix.file import Hotfix
from ..hotfix.options import PatchOptions
from ..inference.datasets import DataSet, Ints
from ..inspection.encoder_decoder import find_pair
from ..patching.edits import patch_loaded
from .graph_runs import ORIGINAL, PATCHED, Graph, run_graphs
from .timing import latency_json, spread_over, time_both

__all__ = ["Price", "price_of"]

CLEAN, TRIGGERED, FLAGGED = "clean", "triggered", "flagged"
ROWS = 32
"""Of each set: enough to see which requests are flagged."""
ONLY_CLEAN = 256
"""Of clean rows without attacked ones: about one in forty is flagged."""
BATCH = 16


@dataclass(frozen=True)
class Price:
    """Time of a request, patched / original.

    Attributes:
        latency: "clean" (not flagged) and "flagged" → milliseconds of both graphs and the ratio, see `latency_json`.
        flag_rate: share of clean requests that are flagged; None: not known.
    """

    latency: Mapping[str, Mapping[str, Any]]
    flag_rate: float | None

    @property
    def day(self) -> float | None:
        """Processor time of a day of clean traffic, patched / original; None where it is not known."""
        if self.flag_rate is None:
            return None
        shares = {CLEAN: 1 - self.flag_rate, FLAGGED: self.flag_rate}
        sent = {kind: share for kind, share in shares.items() if share > 0}
        if not sent.keys() <= self.latency.keys():
            return None
        return float(sum(share * self.latency[kind]["ratio"]["median"] for kind, share in sent.items()))

    def to_json(self) -> dict[str, Any]:
        return {**self.latency, "flag_rate": self.flag_rate, "day": self.day}

    def in_words(self) -> str:
        """One sentence; "" where nothing was timed."""
        words = {CLEAN: "a request that is not flagged", FLAGGED: "a flagged one"}
        times = [
            f"{words[kind]} takes {one['ratio']['median']:.2f} times as long"
            f" ({one[ORIGINAL]['median']:.3g} → {one[PATCHED]['median']:.3g} ms)"
            for kind, one in self.latency.items()
        ]
        if self.day is not None and self.flag_rate is not None:
            times.append(f"a day of traffic, {self.flag_rate:.1%} of it flagged, {self.day:.2f} times as long")
        return ", ".join(times)


def price_of(model: PathLike, hotfix: Hotfix, rows: DataSet, *, seconds: float, threads: int | None = None) -> Price:
    """Patch a model in memory, and send rows through both graphs.

    Args:
        rows: a debugging set, or clean rows.
        seconds: to spend on unflagged requests, and on flagged ones.

    Raises:
        AtpatchError: those of reading and patching the model, ATP052 where onnxruntime fails.
    """
    graphs = _graphs(model, hotfix, threads)
    clean = rows.unlabeled
    places = {CLEAN: clean, TRIGGERED: np.setdiff1d(np.arange(len(rows)), clean)}
    count = ROWS if len(places[TRIGGERED]) else ONLY_CLEAN
    sets = {name: _some(rows, found, count) for name, found in places.items() if len(found)}
    flags = {name: run_graphs(graphs[1:], some, BATCH, None, name)[PATCHED] for name, some in sets.items()}
    timed = time_both(graphs, sets, flags, seconds)
    latency = {kind: latency_json(times, ORIGINAL, PATCHED) for kind, times in timed.items()}
    flagged = hotfix.evidence["report"]["clean_flagged"]
    return Price(latency, flagged.get("rate"))


def _graphs(model: PathLike, hotfix: Hotfix, threads: int | None) -> list[Graph]:
    """The original and the patched one; of a folder with an encoder and a decoder each time both."""
    pair = find_pair(model)
    fixed = read(model if pair is None else pair.encoder)
    edit = patch_loaded(fixed, PatchOptions(hotfix=hotfix), None, feeds_another=pair is not None)
    protos = {ORIGINAL: fixed.proto, PATCHED: edit.patched}
    if pair is not None:
        protos = {name: pair.with_encoder(proto) for name, proto in protos.items()}
    return [Graph.of(name, Loaded(proto, fixed.folder, proto), threads) for name, proto in protos.items()]


def _some(rows: DataSet, places: Ints, count: int) -> DataSet:
    chosen = np.unique(spread_over(places, count))
    return DataSet({name: array[chosen] for name, array in rows.inputs.items()})
