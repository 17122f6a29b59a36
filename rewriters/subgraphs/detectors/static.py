"""`static`: a fixed set of columns; scores are +inf there and -inf elsewhere, so any threshold flags only these."""

from __future__ import annotations

import numpy as np

from ...emit import Emitter
from ...plan import Static
from ..context import MapContext

__all__ = ["scores"]


def scores(e: Emitter, context: MapContext, detector: Static) -> str:
    """(B, K); columns beyond K are ignored."""
    # Column -1 matches no position: so a patch that never fires has the same nodes as one that does.
    columns = e.constant([[column] for column in detector.columns or (-1,)], np.int64)
    keys = e.squeeze(e.dims(context.map, 3), 0)
    positions = e.op("Range", e.constant(0, np.int64), keys, e.constant(1, np.int64))
    hits = e.peak(e.number(e.op("Equal", columns, positions)), 0)
    listed = e.op("Greater", hits, e.constant(0.0))
    return context.per_column(e, e.op("Where", listed, e.constant(np.inf), e.constant(-np.inf)))
