"""Paired latency: two sessions take turns on the same request, so that a busy machine slows both alike."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .runtime import session

__all__ = ["Latency", "Spread", "paired_latency", "request"]

LEAST_SECONDS = 2e-3
"""A timing shorter than this is mostly clock and scheduler noise; quick runs are repeated until they fill it."""

Request = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> Spread:
        low, median, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Latency:
    """Milliseconds a request in either graph, and the ratio patched / original taken pair by pair."""

    original: Spread
    patched: Spread
    ratio: Spread
    pairs: int
    provider: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def request(model: str | os.PathLike[str], feeds: Mapping[str, NDArray[Any]], threads: int = 1) -> Request:
    """A session on a model file, bound to one request: call it to run.

    Args:
        threads: within an operator; pinned, since more threads than free cores make timings jump.

    Raises:
        AtpatchError: ATP050 without onnxruntime, ATP052 where it refuses the model.
    """
    live = session(model, threads=threads)
    names = [output.name for output in live.get_outputs()]
    return lambda: live.run(names, feeds)


def paired_latency(original: Request, patched: Request, *, pairs: int = 200, threads: int = 1, provider: str = "CPU") -> Latency:
    """Time both in turn, the order swapped at every pair.

    Args:
        original, patched: what to time, warm or not.
        threads, provider: only noted in the result.
    """
    repeats = _repeats(original)
    _repeats(patched)  # warms it up
    seconds = np.empty((pairs, 2))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for pair in range(pairs):
            for which in (0, 1) if pair % 2 else (1, 0):
                seconds[pair, which] = _timed(patched if which else original, repeats)
    finally:
        if collecting:
            gc.enable()
    milliseconds = seconds * 1e3 / repeats
    ratio = Spread.of(seconds[:, 1] / seconds[:, 0])
    return Latency(Spread.of(milliseconds[:, 0]), Spread.of(milliseconds[:, 1]), ratio, pairs, provider, threads)


def _repeats(run: Request) -> int:
    """How many runs fill `LEAST_SECONDS`, from the fastest of a few."""
    fastest = min(_timed(run, 1) for _ in range(20))
    return max(1, round(LEAST_SECONDS / max(fastest, 1e-6)))


def _timed(run: Request, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - start
