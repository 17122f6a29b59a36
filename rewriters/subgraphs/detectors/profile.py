"""`profile`: per-column features of every head → MLP → probability (see `plan.Profile`), for any length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...emit import Emitter
from ...plan import Dense, OneClass, Profile
from ..context import MapContext
from .answer_row import answer_features, heads_of, only_judged
from .value_norms import norm_features

__all__ = ["by_head", "column_features", "dense_stack", "logits", "scores"]


def scores(e: Emitter, context: MapContext, detector: Profile) -> str:
    """(B, K) probabilities; of an answer row -inf where a column is not judged."""
    return _judged(e, context, detector, e.op("Sigmoid", _network(e, context, detector), role="score"))


def logits(e: Emitter, context: MapContext, detector: Profile) -> str:
    """The same before the sigmoid."""
    return _judged(e, context, detector, _network(e, context, detector))


def _judged(e: Emitter, context: MapContext, detector: Profile, score: str) -> str:
    return only_judged(e, context, heads_of(detector), score) if detector.answer_row else score


def _network(e: Emitter, context: MapContext, detector: Profile) -> str:
    """(B, K), before the sigmoid."""
    x, width = column_features(e, context, detector), detector.map_features
    order = by_head(width, detector.probes)
    first, *further = _with_constant_unit(_standardizing(detector))
    # Columns stay the last axis, as in the map, so no Transpose is needed: x ← Wᵀ x + b, with x (B, F, K).
    product = e.op("MatMul", _weight(e, first.weight[order], last=not further), x)
    if detector.norms is not None:
        # A product of their own, since a Concat would need norms for each sample and head.
        mean = detector.mean[..., width:]
        norms = norm_features(e, context, detector.norms)
        centered = e.op("Sub", norms, e.constant(mean.T if mean.ndim == 2 else mean[:, None]))
        product = e.op("Add", product, e.op("MatMul", _weight(e, first.weight[width:], last=not further), centered))
    x = e.op("Add", product, _bias(e, first.bias, last=not further))
    for index, layer in enumerate(further, 1):
        last = index == len(further)
        x = e.op("MatMul", _weight(e, layer.weight, last=last), e.op("Relu", x))
        if not last:  # the last one has no bias
            x = e.op("Add", x, _bias(e, layer.bias, last=False))
    return x


def _weight(e: Emitter, weight: NDArray[np.float32], *, last: bool) -> str:
    return e.constant(weight[:, 0] if last else weight.T)


def _bias(e: Emitter, bias: NDArray[np.float32], *, last: bool) -> str:
    """A bias (U,) or (K, U) for products (B, U, K), or (B, K) of the last layer."""
    if bias.ndim == 2:
        return e.constant(bias.T[0] if last else bias.T)
    return e.constant(bias if last else bias[:, None])


def column_features(e: Emitter, context: MapContext, detector: Profile | OneClass, together: str | None = None) -> str:
    """(B, F, K): the features of the map, see `plan.Profile`, in the order of `by_head`.

    Args:
        together: (B, K, K) float32; the attention to column k becomes a sum over columns j, each × [j, k].
    """
    if detector.answer_row:
        seeing = isinstance(detector, Profile) and detector.seeing_rows
        return answer_features(e, context, heads_of(detector), together, seeing_rows=seeing)
    relative = _small_map_features(e, context, detector) or _map_features(e, context, detector)
    if together is not None:
        relative = e.op("MatMul", relative, e.unsqueeze(together, 1), role="summed_attention")
    features = e.op("Log", e.op("Add", relative, e.constant(1.0)), role="features")
    return e.op("Reshape", features, e.constant([0, detector.map_features, -1], np.int64))


def _small_map_features(e: Emitter, context: MapContext, detector: Profile | OneClass) -> str | None:
    """(B, H, 1 + probes, K) by one product, of a small map of fixed size; None of any other."""
    size = context.size
    if size is None or not size.small or detector.every != 1 or context.valid is not None:
        return None
    assert size.queries is not None
    if not all(-size.queries <= probe < size.queries for probe in detector.probes):
        return None
    rows = np.zeros((1 + len(detector.probes), size.queries))
    rows[0] = size.columns / size.queries
    rows[range(1, len(rows)), detector.probes] = size.columns
    return e.op("MatMul", e.constant(rows), context.map, role="column_sums")


def _map_features(e: Emitter, context: MapContext, detector: Profile | OneClass) -> str:
    """(B, H, 1 + probes, K): attention to a column, relative to uniform."""
    valid = context.valid_float(e)
    length = context.length_of_maps(e)
    sampled, probed = context.rows(e, detector.every, detector.probes)
    rows = [context.row_sum(e, sampled, detector.every, valid, length)]
    if probed is not None:
        rows.append(e.op("Mul", probed, length))
    return e.op("Concat", *rows, axis=2) if len(rows) > 1 else rows[0]


def by_head(width: int, probes: tuple[int, ...]) -> NDArray[np.int64]:
    """The order of a plan's features in which a map gives them: all features of one head together."""
    return np.arange(width).reshape(1 + len(probes), -1).T.ravel()


def _standardizing(detector: Profile) -> tuple[Dense, ...]:
    """The layers with (x - mean) / std folded into the first: ((x - m) / s) W + b = x (W / s) + (b - (m / s) W).

    With a mean (K, F) the first bias is (K, U), one row for each column. Norms come with their mean taken off.
    """
    first, *rest = detector.layers
    std, width = detector.std.astype(np.float64), detector.map_features
    weight = first.weight.astype(np.float64) / std[:, None]
    mean = (detector.mean / std)[..., :width]
    bias = first.bias - mean @ first.weight[:width].astype(np.float64)
    return (Dense(weight.astype(np.float32), bias.astype(np.float32)), *rest)


def _with_constant_unit(layers: tuple[Dense, ...]) -> tuple[Dense, ...]:
    """The same network without the last bias: it is the weight of one more unit, which is always 1."""
    if len(layers) < 2:
        return layers
    *front, before, last = layers
    weight = np.pad(before.weight, ((0, 0), (0, 1)))
    bias = np.concatenate([before.bias, np.ones_like(before.bias[..., :1])], axis=-1)
    last_weight = np.concatenate([last.weight, last.bias[None]])
    return (*front, Dense(weight, bias), Dense(last_weight, np.zeros_like(last.bias)))


def dense_stack(e: Emitter, x: str, layers: tuple[Dense, ...]) -> str:
    """x (..., in) through dense layers with ReLU between them."""
    for index, layer in enumerate(layers):
        if index:
            x = e.op("Relu", x)
        x = e.op("Add", e.op("MatMul", x, e.constant(layer.weight)), e.constant(layer.bias))
    return x
