"""Detectors with random weights, and a threshold between their scores."""

from __future__ import annotations

import numpy as np

from rewriters.plan import (
    Dense,
    Profile,
)


def separating(scores: np.ndarray, share: float = 0.7) -> float:
    """A threshold in the widest gap around a quantile, so that float32 rounding cannot move a score across it."""
    finite = np.sort(scores[np.isfinite(scores)])
    start = max(0, int(len(finite) * share) - 3)
    gaps = np.diff(finite[start : start + 6])
    assert gaps.max() > 1e-4
    best = start + int(gaps.argmax())
    return float((finite[best] + finite[best + 1]) / 2)


def random_profile(heads: int, rng: np.random.Generator, probes: tuple[int, ...] = (0, 2), every: int = 1) -> Profile:
    width = heads * (1 + len(probes))
    dense = [
        Dense(rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[1]).astype(np.float32))
        for shape in ((width, 8), (8, 1))
    ]
    return Profile(
        tuple(dense),
        rng.normal(size=width).astype(np.float32),
        rng.uniform(0.5, 2, width).astype(np.float32),
        probes,
        every,
    )
