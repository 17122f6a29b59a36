"""Columns of equal tokens: a repeated trigger shares the attention that one of it draws, so they are judged together.

`tokens` is a graph input (B, K) with ids. Opset 11 or later, as all detectors.
"""

from __future__ import annotations

import numpy as np

from ..emit import Emitter

__all__ = ["equal_tokens", "of_equal_tokens", "repeated_tokens"]


def equal_tokens(e: Emitter, tokens: str) -> str:
    """(B, K, K) bool: which columns hold the same token."""
    return e.once(
        f"equal:{tokens}",
        lambda: e.op("Equal", e.unsqueeze(tokens, 2), e.unsqueeze(tokens, 1), role="equal_tokens"),
    )


def repeated_tokens(e: Emitter, tokens: str) -> str:
    """(B, K) bool: the same token stands in an earlier column."""

    def make() -> str:
        first = e.op("ArgMax", e.number(equal_tokens(e, tokens)), axis=2, keepdims=0, role="first_place")
        columns = e.squeeze(e.dims(tokens, 1, 2), 0)
        places = e.op("Range", e.constant(0, np.int64), columns, e.constant(1, np.int64), role="places")
        return e.op("Less", first, places, role="repeated")

    return e.once(f"repeated:{tokens}", make)


def of_equal_tokens(e: Emitter, scores: str, tokens: str) -> str:
    """Scores (B, K), each the highest of those of equal tokens; padding and sinks keep theirs, -inf."""
    everywhere = e.op("Where", equal_tokens(e, tokens), e.unsqueeze(scores, 1), e.constant(-np.inf))
    # Not by ReduceMax, see `Emitter.peak`.
    shared, _ = e.top(everywhere, e.constant([1], np.int64), 2, "equal_evidence", "equal_place")
    return e.op("Where", e.op("Less", scores, e.constant(np.finfo(np.float32).min)), scores, e.squeeze(shared, 2))
