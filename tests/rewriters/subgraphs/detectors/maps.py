"""Maps for the tests of detectors: two samples of three heads, and their padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from rewriters.emit import Emitter
from rewriters.subgraphs.context import FixedSize, MapContext

__all__ = ["CONTEXTS", "VALID", "A", "V", "context"]

_rng = np.random.default_rng(7)
VALID = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], bool)
A = _rng.dirichlet(np.ones(6) / 2, (2, 3, 6)).astype(np.float32) * VALID[:, None, None]
"""Map (B, H, Q, K); padded rows attend too."""
V = _rng.normal(size=(2, 3, 6, 4)).astype(np.float32)
CONTEXTS = {
    "plain": (None, True),
    "masked": (VALID, True),
    "cross": (VALID, False),
    "fixed": (None, True),
    "by-mask": (VALID, True),
}
"""Padding of columns, and whether rows are the same tokens. "fixed": the size is known beforehand; "by-mask": the
padding is that of a graph input.
"""


def context(name: str, **more: Any) -> MapContext:
    valid, self_attention = CONTEXTS[name]
    known: dict[str, dict[str, Any]] = {"fixed": {"size": FixedSize(6, 6)}, "by-mask": {"ahead": True}}
    more = known.get(name, {}) | more
    return MapContext("a", None if valid is None else "valid", self_attention, values=_values, **more)


def _values(e: Emitter) -> str:
    return "v"
