"""What a column writes, in each head: log-norm of its value after the output projection (see `plan.ValueNorms`)."""

from __future__ import annotations

from ...emit import Emitter
from ...plan import NORM_FLOOR, ValueNorms
from ..context import MapContext

__all__ = ["norm_features"]


def norm_features(e: Emitter, context: MapContext, norms: ValueNorms) -> str:
    """(B | 1, H | 1, K): one for all samples or heads where these share their values."""
    assert context.values is not None
    written = context.values(e)
    if norms.factor is not None:
        written = e.op("MatMul", written, e.constant(norms.factor), role="written")
    norm = e.reduce("L2", written, 3, keepdims=False, role="value_norm")
    return e.op("Log", e.op("Add", norm, e.constant(NORM_FLOOR)), role="norm_features")
