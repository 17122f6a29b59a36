"""Paired latency: two requests take turns, so that a busy machine slows both alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Latency", "Request", "Spread", "paired_latency", "time_pairs"]

LEAST_SECONDS = 2e-3
"""A timing shorter than this is mostly clock and scheduler noise; quick runs are repeated until they fill it."""

WARM_UP, WARM_UP_SECONDS = 20, 1.0
"""Runs ahead of the first timing: so many, or as many as fit the time, `FEWEST_WARM_UP` at least."""
FEWEST_WARM_UP = 2

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
    """Milliseconds for each request in either graph, and the ratio patched / original taken pair by pair."""

    original: Spread
    patched: Spread
    ratio: Spread
    pairs: int
    provider: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def paired_latency(
    original: Request, patched: Request, *, pairs: int = 200, threads: int = 1, provider: str = "CPU"
) -> Latency:
    """Time both in turn, the order swapped at every pair.

    Args:
        original, patched: what to time, warm or not.
        threads, provider: only recorded in the result.
    """
    seconds = time_pairs(original, patched, pairs=pairs)
    ratio = Spread.of(seconds[:, 1] / seconds[:, 0])
    return Latency(Spread.of(seconds[:, 0] * 1e3), Spread.of(seconds[:, 1] * 1e3), ratio, pairs, provider, threads)


def time_pairs(
    original: Request, patched: Request, *, pairs: int = 200, seconds: float = math.inf, fewest: int = 1
) -> NDArray[np.float64]:
    """Time both in turn after a warm-up, the order swapped at every pair, the garbage collector off.

    Args:
        pairs: to take at most.
        seconds: take no further pair after this time, but `fewest` at least.

    Returns: (R, 2) seconds a request, original and patched; R is even, so that each is first as often, unless `pairs`
    is odd.
    """
    repeats = _repeats(original)
    _repeats(patched)  # warms it up
    taken: list[tuple[float, float]] = []
    collecting = gc.isenabled()
    gc.disable()
    end = time.perf_counter() + seconds
    try:
        while len(taken) < pairs and (len(taken) < fewest or len(taken) % 2 or time.perf_counter() < end):
            if len(taken) % 2:
                first = _timed(original, repeats)
                taken.append((first, _timed(patched, repeats)))
            else:
                second = _timed(patched, repeats)
                taken.append((_timed(original, repeats), second))
    finally:
        if collecting:
            gc.enable()
    return np.array(taken) / repeats


def _repeats(run: Request) -> int:
    """Warm up; how many runs fill `LEAST_SECONDS`, from the fastest."""
    fastest, spent, runs = math.inf, 0.0, 0
    while runs < FEWEST_WARM_UP or (runs < WARM_UP and spent < WARM_UP_SECONDS):
        taken = _timed(run, 1)
        fastest, spent, runs = min(fastest, taken), spent + taken, runs + 1
    return max(1, round(LEAST_SECONDS / max(fastest, 1e-6)))


def _timed(run: Request, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - start
