"""`oneclass`: distance of a column's features from those of clean columns (see `plan.OneClass`).

The length is free if the reference is the same for all positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from ...emit import Emitter
from ...plan import NormDistance, OneClass
from ..context import MapContext
from ..equal_tokens import equal_tokens, repeated_tokens
from .answer_row import judged
from .profile import by_head, column_features
from .sinks import places_of, sinks
from .value_norms import norm_features

__all__ = ["scores"]


def scores(e: Emitter, context: MapContext, detector: OneClass) -> str:
    """(B, K) nats beyond the offset, 0 below it, with norms the sum of two tests; -inf at sinks."""
    order = by_head(detector.map_features, detector.probes)
    exempt = _exempt(e, context, detector)
    together = None if detector.tokens is None else _together(e, detector.tokens, exempt)
    distance = _distance(e, column_features(e, context, detector, together), detector, order)
    score = _surprise(e, context, distance, exempt, detector, detector, detector.tokens)
    if (norms := detector.norms) is not None:
        distance = _distance(e, norm_features(e, context, norms.norms), norms, np.arange(norms.mean.shape[-1]))
        score = e.op("Add", score, _surprise(e, context, distance, exempt, norms, detector), role="both_signals")
    if detector.by_length is not None:
        score = e.op("Mul", score, _factor(e, context, detector), role="for_length")
    return score if exempt is None else e.op("Where", exempt, e.constant(-np.inf), score)


def _factor(e: Emitter, context: MapContext, detector: OneClass) -> str:
    """(B, 1) or (1,): what scores of a request of this length are multiplied by, the same value for all equal sites."""
    known = detector.by_length
    assert known is not None
    if context.size is not None:
        return e.constant(detector.factors(np.array([context.size.columns])))
    first, last = int(known[0, 0]), int(known[-1, 0])
    length = context.length(e, context.valid_float(e))

    def look_up(body: Emitter) -> str:
        near = body.op("Clip", length, body.constant(float(first)), body.constant(float(last)))
        place = body.cast(body.op("Sub", near, body.constant(float(first))), TensorProto.INT64)
        return body.op("Gather", body.constant(detector.factors(np.arange(first, last + 1))), place, role="factor")

    return context.shared(e, f"factor:{length}:{known.tobytes().hex()}", look_up)


def _together(e: Emitter, tokens: str, exempt: str | None) -> str:
    """(B, K, K): 1 where columns hold the same token, but for the rows of sinks."""
    equal = equal_tokens(e, tokens)
    if exempt is not None:
        equal = e.op("And", equal, e.unsqueeze(e.op("Not", exempt), 2))
    return e.number(equal)


def _exempt(e: Emitter, context: MapContext, detector: OneClass) -> str | None:
    """(B, K) bool, columns that are neither judged nor neighbors of one; None where there are none."""
    known = sinks(e, context, detector.exempt)
    if not detector.answer_row:
        return known
    others = e.op("Not", judged(e, context, detector.map_features), role="not_judged")
    return others if known is None else e.op("Or", others, known)


def _distance(e: Emitter, features: str, reference: OneClass | NormDistance, order: NDArray[np.int64]) -> str:
    """(B, K); order: the reference's features in the order of `features` (B, F, K)."""
    mean, weight = reference.mean[..., order], reference.weight[..., order, :]
    centered = e.op("Sub", features, e.constant(mean.T if mean.ndim == 2 else mean[:, None]))
    if weight.ndim == 3:  # one matrix for each position, as a batch of products over K: (K, B, F) · (K, F, U)
        y = e.op("MatMul", e.op("Transpose", centered, perm=[2, 0, 1]), e.constant(weight))
        return e.op("Transpose", _summed(e, y, reference, 2), perm=[1, 0])
    # Without squares, the sum of all units is a single unit.
    y = e.op("MatMul", e.constant(weight.T if reference.squared else weight.sum(1, keepdims=True).T), centered)
    return _summed(e, y, reference, 1)


def _surprise(
    e: Emitter,
    context: MapContext,
    distance: str,
    exempt: str | None,
    reference: OneClass | NormDistance,
    detector: OneClass,
    tokens: str | None = None,
) -> str:
    """(B, K) nats of one test, 0 below its offset."""
    beyond = e.op("Sub", distance, e.constant(np.float32(reference.offset)))
    content = _content(context, detector) if tokens is None else None
    if reference.rank and content is not None:
        beyond = e.op("Sub", beyond, _neighbor_among(e, distance, content, reference.rank))
    elif reference.rank and context.ahead and tokens is None and not detector.answer_row:
        beyond = e.op("Sub", beyond, _neighbor_by_place(e, context, distance, detector.exempt, reference.rank))
    elif reference.rank:
        padding = None if context.valid is None else e.op("Not", context.valid)
        repeated = None if tokens is None else repeated_tokens(e, tokens)
        excluded = [mask for mask in (exempt, padding, repeated) if mask is not None]
        beyond = e.op("Sub", beyond, _neighbor_distance(e, distance, excluded, reference.rank))
    return e.op("Relu", beyond, role="surprise")


def _summed(e: Emitter, y: str, reference: OneClass | NormDistance, axis: int) -> str:
    if reference.squared:
        y = e.op("Relu", y) if isinstance(reference, NormDistance) and reference.louder else y
        y = e.op("Mul", y, y)
    return e.reduce("Sum", y, axis, keepdims=False, role="distance")


def _content(context: MapContext, detector: OneClass) -> list[int] | None:
    """The columns that are judged, where they are the same in every request."""
    if context.size is None or detector.answer_row:
        return None
    sinks = places_of(detector.exempt, context.size.columns)
    return [column for column in range(context.size.columns) if column not in sinks] or None


def _neighbor_among(e: Emitter, distance: str, content: list[int], rank: int) -> str:
    """(B, 1): as `_neighbor_distance`, among known columns."""
    judged = e.op("Gather", distance, e.constant(content, np.int64), axis=1, role="judged")
    highest, _ = e.top(judged, e.constant([min(rank, len(content))], np.int64), 1, "highest")
    return e.op("Gather", highest, e.constant([-1], np.int64), axis=1, role="neighbor")


def _neighbor_by_place(e: Emitter, context: MapContext, distance: str, exempt: tuple[int, ...], rank: int) -> str:
    """(B, 1): as `_neighbor_distance`, where the judged columns depend only on the padding."""
    valid = context.valid
    assert valid is not None
    key = f"{exempt}:{valid}"

    def judged(body: Emitter) -> str:
        found = sinks(body, context, exempt)
        return valid if found is None else body.op("And", valid, body.op("Not", found), role="judged")

    def place(body: Emitter) -> str:
        """Behind the last judged column there are only columns that are not."""
        count = body.reduce("Sum", body.number(content), 1)
        last = body.op("Clip", count, body.constant(1.0), body.constant(float(rank)))
        return body.cast(body.op("Sub", last, body.constant(1.0)), TensorProto.INT64)

    content = context.shared(e, f"judged:{key}", judged)
    apart = e.op("Where", content, distance, e.constant(-np.inf))
    most = context.shared(e, f"most:{rank}:{valid}", lambda body: body.at_most(context.columns(body), rank))
    highest, _ = e.top(apart, most, 1, "highest")
    chosen = context.shared(e, f"place:{rank}:{key}", place)
    return e.op("GatherElements", highest, chosen, axis=1, role="neighbor")


def _neighbor_distance(e: Emitter, distance: str, excluded: Sequence[str], rank: int) -> str:
    """(B, 1): the rank-th highest distance among a sample's columns that no mask excludes, else the lowest."""
    highest = lowest = distance
    for mask in excluded:
        highest = e.op("Where", mask, e.constant(-np.inf), highest)
        lowest = e.op("Where", mask, e.constant(np.inf), lowest)
    # At most the number of columns; excluded ones come last.
    count = e.at_most(e.dims(distance, 1), rank)
    ranked = e.op("Gather", e.top(highest, count, 1, "highest")[0], e.constant([-1], np.int64), axis=1)
    least, _ = e.top(lowest, e.constant([1], np.int64), 1, "lowest", largest=0)
    return e.op("Where", e.op("Less", ranked, least), least, ranked)  # not by Max, see `Emitter.at_least`
