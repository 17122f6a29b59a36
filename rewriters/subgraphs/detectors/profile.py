"""`profile`: per-column features of every head → MLP → probability (see `plan.Profile`). Any length."""

from __future__ import annotations

import numpy as np

from ...emit import Emitter
from ...plan import Dense, Profile
from ..context import MapContext

__all__ = ["column_features", "dense_stack", "scores"]


def scores(e: Emitter, context: MapContext, detector: Profile) -> str:
    """(B, K) probabilities."""
    features = column_features(e, context, detector.probes, len(detector.std))
    logits = dense_stack(e, features, _standardising(detector))
    return e.op("Sigmoid", e.squeeze(logits, 2), role="score")


def column_features(e: Emitter, context: MapContext, probes: tuple[int, ...], width: int) -> str:
    """(B, K, F): see `plan.Profile`."""
    valid = context.valid_float(e)
    rows = [context.row_mean(e, valid)]
    if probes:
        rows.append(e.op("Gather", context.map, e.constant(probes, np.int64), axis=2, role="probe_rows"))
    profile = e.op("Concat", *rows, axis=2) if len(rows) > 1 else rows[0]
    length = context.length(e, valid)
    if valid is not None:
        length = e.unsqueeze(length, 2, 3)
    relative = e.op("Mul", profile, length)
    features = e.op("Log", e.op("Add", relative, e.constant(1.0)), role="features")
    by_column = e.op("Transpose", features, perm=[0, 3, 2, 1])
    return e.reshape(by_column, e.dims(by_column, 0, 2), width)


def _standardising(detector: Profile) -> tuple[Dense, ...]:
    """The layers with (x - mean) / std folded into the first: ((x - m) / s) W + b = x (W / s) + (b - (m / s) W).

    With a mean (K, F) the first bias is (K, U), one row a column.
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
