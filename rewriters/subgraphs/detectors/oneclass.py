"""`oneclass`: distance of a column's features from those of clean columns (see `plan.OneClass`). Any length where places mean nothing."""

from __future__ import annotations

import numpy as np

from ...emit import Emitter
from ...plan import OneClass
from ..context import MapContext
from .profile import column_features
from .sinks import sinks

__all__ = ["scores"]


def scores(e: Emitter, context: MapContext, detector: OneClass) -> str:
    """(B, K) nats beyond the offset, 0 below it; -inf at sinks."""
    features = column_features(e, context, detector.probes, detector.mean.shape[-1])
    centred = e.op("Sub", features, e.constant(detector.mean))
    if detector.weight.ndim == 3:  # one matrix a place, as a batch of products over K
        product = e.op("MatMul", e.unsqueeze(centred, 2), e.constant(detector.weight))
        y = e.squeeze(product, 2)
    else:
        y = e.op("MatMul", centred, e.constant(detector.weight))
    if detector.squared:
        y = e.op("Mul", y, y)
    distance = e.reduce("Sum", y, 2, keepdims=False, role="distance")
    exempt = sinks(e, context, detector.exempt)
    beyond = e.op("Sub", distance, e.constant(np.float32(detector.offset)))
    if detector.rank:
        beyond = e.op("Sub", beyond, _neighbour(e, context, distance, exempt, detector.rank))
    score = e.op("Relu", beyond, role="surprise")
    return score if exempt is None else e.op("Where", exempt, e.constant(-np.inf), score)


def _neighbour(e: Emitter, context: MapContext, distance: str, exempt: str | None, rank: int) -> str:
    """(B, 1): the rank-th highest distance among a sample's columns, padding and sinks aside; the lowest where there are fewer."""
    nothing, highest, negated = e.constant(-np.inf), distance, e.op("Neg", distance)
    for aside in (exempt, None if context.valid is None else e.op("Not", context.valid)):
        if aside is not None:
            highest = e.op("Where", aside, nothing, highest)
            negated = e.op("Where", aside, nothing, negated)
    # Never more than there are columns; those aside come last.
    count = e.op("Min", e.constant([rank], np.int64), e.dims(distance, 1))
    e.op("TopK", highest, count, axis=1, role="highest")
    e.nodes[-1].output.append(e.value("order"))
    last = e.op("Gather", e.nodes[-1].output[0], e.constant([-1], np.int64), axis=1)
    return e.op("Max", last, e.op("Neg", e.reduce("Max", negated, 1)))
