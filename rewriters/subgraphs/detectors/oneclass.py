"""`oneclass`: distance of a column's features from those of clean columns (see `plan.OneClass`). Any length where places mean nothing."""

from __future__ import annotations

import numpy as np

from ...emit import Emitter
from ...plan import OneClass
from ..context import MapContext
from .profile import column_features
from .sinks import without_sinks

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
    beyond = e.op("Sub", e.reduce("Sum", y, 2, keepdims=False), e.constant(np.float32(detector.offset)))
    return without_sinks(e, context, e.op("Relu", beyond, role="surprise"), detector.exempt)
