"""Attention sinks ([CLS], [SEP], BOS): tokens that get much attention in every text, and are never flagged.

Positions count only valid columns, so padding does not move them.
"""

from __future__ import annotations

import numpy as np

from ...emit import Emitter
from ..context import MapContext

__all__ = ["places_of", "sinks", "without_sinks"]


def without_sinks(e: Emitter, context: MapContext, score: str, exempt: tuple[int, ...]) -> str:
    """Scores (B, K), -inf at the exempt positions; negative ones count back from the last valid column."""
    found = sinks(e, context, exempt)
    return score if found is None else e.op("Where", found, e.constant(-np.inf), score)


def places_of(exempt: tuple[int, ...], columns: int) -> list[int]:
    """Exempt positions among K columns."""
    return [place % columns for place in exempt if -columns <= place < columns]


def sinks(e: Emitter, context: MapContext, exempt: tuple[int, ...]) -> str | None:
    """(B, K) bool, or (1, K) without padding; None where nothing is exempt."""
    if not exempt:
        return None
    if context.size is not None:
        return e.constant(
            np.isin(np.arange(context.size.columns), places_of(exempt, context.size.columns))[None], np.bool_
        )
    if context.valid is None:
        return _counted(e, context, exempt)
    return context.shared(e, f"sinks:{exempt}:{context.valid}", lambda body: _counted(body, context, exempt))


def _counted(e: Emitter, context: MapContext, exempt: tuple[int, ...]) -> str:
    valid = context.valid_float(e)
    length = context.length(e, valid)
    counted = e.ones(1, e.dims(context.map, 3)) if valid is None else valid
    positions = e.op("Sub", e.op("CumSum", counted, e.constant(1, np.int64)), e.constant(1.0))
    places = []
    for place in exempt:
        target = e.constant(float(place)) if place >= 0 else e.op("Add", length, e.constant(float(place)))
        # Positions are whole numbers in float32; a distance below 0.5 avoids an exact comparison.
        places.append(e.op("Less", e.op("Abs", e.op("Sub", positions, target)), e.constant(0.5)))
    found = places[0]
    for other in places[1:]:
        found = e.op("Or", found, other)
    return found
