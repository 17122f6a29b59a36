"""The result of `bench`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.summary import Summarized

from .footprint import Footprint
from .options import Kind
from .paired_latency import Spread

__all__ = ["Bench", "Interval", "Timed", "ratio_interval"]

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Timed:
    """One request, timed in pairs.

    Attributes:
        shape, kind, flagged, threshold: see `requests.Asked`.
        original, patched: milliseconds a request, median and quartiles.
        ratio: patched / original, pair by pair.
        pairs: timed.
    """

    shape: Mapping[str, int]
    kind: Kind
    flagged: float | None
    threshold: float | None
    original: Spread
    patched: Spread
    ratio: Interval
    pairs: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": dict(self.shape)}


@dataclass(frozen=True, eq=False, repr=False)
class Bench(Summarized):
    """An original and its patch, timed, with memory, loading and size.

    Attributes:
        models: path of either where it came as a file.
        timed: one entry a request.
        weighed: footprint of original and patch, None where none was taken.
        provider, threads: of onnxruntime.
        setup: cores, load of the machine as it began, versions.
        remarks: what could not be measured, one line each.
        nodes: of original and patch, subgraphs and functions included.
        sites: patched ones; 0: the second model has no stamp of a patch.
    """

    models: tuple[str | None, str | None]
    timed: Sequence[Timed]
    weighed: tuple[Footprint, Footprint] | None
    provider: str
    threads: int
    setup: Mapping[str, Any]
    remarks: Sequence[str] = ()
    nodes: tuple[int, int] = (0, 0)
    sites: int = 0

    @property
    def nodes_a_site(self) -> float | None:
        """Nodes that the patch adds, for each patched site; a second pass adds a copy of the model. None without a
        patch.
        """
        return (self.nodes[1] - self.nodes[0]) / self.sites if self.sites else None

    @property
    def headline(self) -> Timed:
        """The unflagged request with the highest ratio; of all requests, where each is flagged."""
        clean = [one for one in self.timed if one.kind == "clean"]
        return max(clean or self.timed, key=lambda one: one.ratio.median)

    @property
    def ratios(self) -> dict[str, float]:
        """Patched / original of load time, peak memory (clean requests, all requests) and file size."""
        if self.weighed is None:
            return {}
        pairs = {
            name: [getattr(one, name) for one in self.weighed]
            for name in Footprint.__dataclass_fields__
            if name != "idle_bytes"
        }
        return {
            name.removesuffix("_bytes").removesuffix("_ms"): after / before
            for name, (before, after) in pairs.items()
            if before
        }

    def over(self, bound: float, kind: Kind) -> list[Timed]:
        """Requests of a kind whose median ratio is above a bound."""
        return [one for one in self.timed if one.kind == kind and one.ratio.median > bound]

    def measured(self, name: str) -> float | None:
        """One of `options.RATIOS`; None where it was not taken."""
        return self.nodes_a_site if name == "nodes" else self.ratios.get(name)

    def summary(self) -> Iterator[tuple[str, str]]:
        yield "models", " and ".join(path or "a graph in memory" for path in self.models)
        headline = self.headline
        ratio = f"{headline.ratio.median:.3f} ({headline.ratio.low:.3f} to {headline.ratio.high:.3f})"
        yield (
            "latency ratio",
            f"{ratio}, {headline.original.median:.3g} → {headline.patched.median:.3g} ms, {headline.kind} request",
        )
        yield "other ratios", ", ".join(f"{name} {ratio:.3f}" for name, ratio in self.ratios.items()) or "not taken"
        yield "session", f"{self.provider}, {self.threads} threads, {len(self.timed)} requests"

    def to_json(self) -> dict[str, Any]:
        """The keys that `bench --json` promises, and every request."""
        headline = self.headline
        sides = {}
        for index, (name, spread) in enumerate((("original", headline.original), ("patched", headline.patched))):
            weighed = {} if self.weighed is None else asdict(self.weighed[index])
            sides[name] = {"path": self.models[index], "ms": spread.median, "nodes": self.nodes[index], **weighed}
        return {
            **sides,
            "ratio": {**asdict(headline.ratio), "kind": headline.kind, "shape": dict(headline.shape)},
            "ratios": self.ratios,
            "nodes_a_site": self.nodes_a_site,
            "provider": self.provider,
            "threads": self.threads,
            "cases": [one.to_json() for one in self.timed],
            "setup": dict(self.setup),
            "remarks": list(self.remarks),
        }


def ratio_interval(seconds: NDArray[np.float64]) -> Interval:
    """Median of patched / original over pairs (R, 2), with a percentile bootstrap interval; of a single
    pair only its ratio.
    """
    from scipy.stats import bootstrap

    ratios = seconds[:, 1] / seconds[:, 0]
    median = float(np.median(ratios))
    if len(ratios) < 2:
        return Interval(median, median, median)
    found = bootstrap(
        (ratios,),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return Interval(median, float(found.confidence_interval.low), float(found.confidence_interval.high))
