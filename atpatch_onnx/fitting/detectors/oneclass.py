"""Fitting of `oneclass` on clean columns: mean and covariance of their features, and how rare a distance is among them.

Where a column is the same place in every sample, each place has a distribution of its own, and any departure from it
counts: a trigger may draw less attention than what usually sits there (Mahalanobis distance). Where tokens move, every
content token is drawn from one wide distribution, and only more attention counts: the projection of the features on
S⁻¹·1, which is the likelihood ratio for "the same excess in every feature". S⁻¹ takes out what rises and falls together
in clean columns. There a column also has to stand out from the other columns of its sample: many clean sentences
have one or two words with much attention, but a trigger has more than any of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import NormDistance, OneClass, ValueNorms

__all__ = ["STARTS", "STARTS_AT_PLACE", "Moments", "describe", "describe_norms", "in_nats", "surprise", "tail"]

Floats = NDArray[np.floating[Any]]

Reference = TypeVar("Reference", OneClass, NormDistance)

RIDGE = 1e-2
"""Added to the variances of log1p features where distances are squared. Without it, a feature that never varied in
training would make any small change an enormous distance.
"""
NORM_RIDGE = 1e-4
"""The same for log-norms, whose variances are about a hundred times smaller."""
RANK = 4
"""A column is compared with the fourth highest of its sample. So up to three trigger tokens do not hide each other."""
MOST_WEIGHTS = 1 << 20
"""Of one site. Above this number all places share one covariance."""
STARTS, STARTS_AT_PLACE, TAIL = 0.6, 0.95, 0.99
"""Quantiles of clean columns: where a score starts to count, where tokens move and for places, and beyond which it is
taken to fall off exponentially. A trigger is a little unusual at every site and in both signals, which only a low start
adds up: with .95, 3 % of the triggers are missed at .5 % flagged, with .6 it is .5 % (SST-2, debugging rows).
"""


class Moments:
    """Running sums of clean features, for each place separately or for all columns together.

    Args:
        places: number of places, None where a place means nothing.
        features: F.
    """

    def __init__(self, places: int | None, features: int) -> None:
        shape = () if places is None else (places,)
        self._count: Any = np.zeros(shape)
        self._sum = np.zeros((*shape, features))
        self._squares = np.zeros((*shape, features, features))

    def add(self, features: Floats, chosen: NDArray[np.bool_]) -> None:
        """features: (B, K, F); chosen: (B, K), the columns that count."""
        x = features.astype(np.float64) * chosen[..., None]
        if self._sum.ndim == 1:  # one row of columns, all at the same place
            x, chosen = x.reshape(-1, x.shape[-1]), chosen.reshape(-1)
        self._count = self._count + chosen.sum(0)
        self._sum += x.sum(0)
        self._squares += np.einsum("b...f,b...g->...fg", x, x, optimize=True)

    def mean_and_covariance(self) -> tuple[Floats, Floats]:
        """(F,) and (F, F), or one of each for every place."""
        count = np.maximum(self._count, 1)[..., None]
        mean = self._sum / count
        return mean, self._squares / count[..., None] - mean[..., :, None] * mean[..., None, :]


def describe(
    moments: Moments, *, exempt: tuple[int, ...], probes: tuple[int, ...], answer_row: bool = False
) -> OneClass:
    """The detector, its scores not yet in nats (see `in_nats`).

    answer_row: the moments are of `answer_row_features` at columns of `answer_row_scored`; then there are no probes.
    """
    mean, covariance = moments.mean_and_covariance()
    features = mean.shape[-1]
    if mean.ndim == 1:
        ruled = covariance + np.diag(np.diag(covariance) + RIDGE)
        weight = np.linalg.solve(ruled, np.ones(features))[:, None]
        return OneClass(
            mean.astype(np.float32), weight.astype(np.float32), False, 0.0, RANK, exempt, probes, answer_row=answer_row
        )
    if covariance.size > MOST_WEIGHTS:
        covariance = np.broadcast_to(covariance.mean(0), covariance.shape)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance + RIDGE * np.eye(features)))
    return OneClass(
        mean.astype(np.float32), whitening.astype(np.float32), True, 0.0, 0, exempt, probes, answer_row=answer_row
    )


def describe_norms(moments: Moments, norms: ValueNorms) -> NormDistance:
    """The same for the norms of what a column writes.

    For each place: their Mahalanobis distance. Where tokens move, a word may be unusual in any direction, but a trigger
    writes more than clean words in many heads at once: the sum over heads of max(z, 0)². Two victims with weakly hidden
    attention (SST-2, debugging rows): all triggers are caught at .5 % of clean rows, and with the Mahalanobis distance
    none. No column is compared with its neighbors: that would take from a trigger what an unusual word next to it has.
    """
    mean, covariance = moments.mean_and_covariance()
    if mean.ndim == 1:
        scale = np.diag(1.0 / np.sqrt(np.diag(covariance) + NORM_RIDGE))
        return NormDistance(norms, mean.astype(np.float32), scale.astype(np.float32), True, 0.0, louder=True)
    if covariance.ndim == 3 and covariance.size > MOST_WEIGHTS:
        covariance = np.broadcast_to(covariance.mean(0), covariance.shape)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance + NORM_RIDGE * np.eye(mean.shape[-1])))
    return NormDistance(norms, mean.astype(np.float32), whitening.astype(np.float32), True, 0.0)


def surprise(
    detector: OneClass | NormDistance,
    features: Floats,
    scored: NDArray[np.bool_],
    repeated: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Scores without the cut at zero, (B, K).

    Args:
        features: (B, K, F).
        scored: (B, K), valid columns that are no sinks; others score -inf.
        repeated: (B, K), columns whose token stands in an earlier one, which do not count for the rank.
    """
    centered = features.astype(np.float64) - detector.mean
    weight = detector.weight.astype(np.float64)
    y = np.einsum("bkf,kfu->bku", centered, weight) if weight.ndim == 3 else centered @ weight
    if isinstance(detector, NormDistance) and detector.louder:
        y = np.maximum(y, 0.0)
    distance = np.where(scored, (y**2 if detector.squared else y).sum(-1), -np.inf)
    if not detector.rank:
        return distance - detector.offset
    counted = scored if repeated is None else scored & ~repeated
    # In falling order the others come last; a sample with few columns is compared with its lowest.
    last = np.minimum(detector.rank, np.maximum(counted.sum(1), 1)) - 1
    reference = np.take_along_axis(-np.sort(-np.where(counted, distance, -np.inf), 1), last[:, None], 1)
    return np.where(scored, distance - np.where(np.isfinite(reference), reference, 0.0) - detector.offset, -np.inf)


def tail(scores: Floats, starts: float) -> tuple[float, float]:
    """Where scores of clean columns (N,) start to count, and how many nats one unit of score beyond that is worth.

    Args:
        starts: the quantile where they start.
    """
    start, far = np.quantile(scores, (starts, TAIL))
    return float(start), 1.0 / max(float(np.mean(scores[scores >= far] - far)), 1e-9)


def in_nats(detector: Reference, start: float, rate: float) -> Reference:
    """The detector whose score is (score - start) · rate."""
    factor = np.sqrt(rate) if detector.squared else rate
    return replace(
        detector, weight=(detector.weight * factor).astype(np.float32), offset=(detector.offset + start) * rate
    )
