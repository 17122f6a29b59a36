"""`profile`: per-column features of every head → MLP → probability (see `plan.Profile`), for any length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...emit import Emitter
from ...plan import Dense, OneClass, Profile
from ..context import MapContext

__all__ = ["by_head", "column_features", "dense_stack", "logits", "scores"]


def scores(e: Emitter, context: MapContext, detector: Profile) -> str:
    """(B, K) probabilities."""
    return e.op("Sigmoid", logits(e, context, detector), role="score")


def logits(e: Emitter, context: MapContext, detector: Profile) -> str:
    """(B, K), before the sigmoid."""
    x = column_features(e, context, detector)
    order = by_head(len(detector.std), detector.probes)
    *hidden, last = _standardizing(detector)
    # Columns stay the last axis, as in the map, so no Transpose is needed: x ← Wᵀ x + b, with x (B, F, K).
    for index, layer in enumerate(hidden):
        weight = layer.weight[order] if not index else layer.weight
        bias = layer.bias.T if layer.bias.ndim == 2 else layer.bias[:, None]
        x = e.op("Relu", e.op("Add", e.op("MatMul", e.constant(weight.T), x), e.constant(bias)))
    weight = last.weight if hidden else last.weight[order]
    return e.op(
        "Add",
        e.op("MatMul", e.constant(weight[:, 0]), x),
        e.constant(last.bias.T[0] if last.bias.ndim == 2 else last.bias),
    )


def column_features(e: Emitter, context: MapContext, detector: Profile | OneClass) -> str:
    """(B, F, K): see `plan.Profile`; features in the order of `by_head`."""
    valid = context.valid_float(e)
    length = context.length(e, valid)
    if valid is not None:
        whole = length
        length = e.once(f"length of a map:{whole}", lambda: e.unsqueeze(whole, 2, 3))
    sampled, probed = context.rows(e, detector.every, detector.probes)
    rows = [context.row_sum(e, sampled, detector.every, valid, length)]
    if probed is not None:
        rows.append(e.op("Mul", probed, length))
    relative = e.op("Concat", *rows, axis=2) if len(rows) > 1 else rows[0]
    features = e.op("Log", e.op("Add", relative, e.constant(1.0)), role="features")
    return e.op("Reshape", features, e.constant([0, detector.mean.shape[-1], -1], np.int64))


def by_head(width: int, probes: tuple[int, ...]) -> NDArray[np.int64]:
    """The order of a plan's features in which a map gives them: all features of one head together."""
    return np.arange(width).reshape(1 + len(probes), -1).T.ravel()


def _standardizing(detector: Profile) -> tuple[Dense, ...]:
    """The layers with (x - mean) / std folded into the first: ((x - m) / s) W + b = x (W / s) + (b - (m / s) W).

    With a mean (K, F) the first bias is (K, U), one row for each column.
    """
    first, *rest = detector.layers
    std = detector.std.astype(np.float64)
    weight = first.weight.astype(np.float64) / std[:, None]
    bias = first.bias - (detector.mean / std) @ first.weight.astype(np.float64)
    return (Dense(weight.astype(np.float32), bias.astype(np.float32)), *rest)


def dense_stack(e: Emitter, x: str, layers: tuple[Dense, ...]) -> str:
    """x (..., in) through dense layers with ReLU between them."""
    for index, layer in enumerate(layers):
        if index:
            x = e.op("Relu", x)
        x = e.op("Add", e.op("MatMul", x, e.constant(layer.weight)), e.constant(layer.bias))
    return x
