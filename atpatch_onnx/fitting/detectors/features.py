"""Per-column features of an attention map and of values, in numpy; the graph engine computes the same numbers.

Shape letters: B samples, H heads, Q query rows, K key columns, D value width, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import NORM_FLOOR, Profile, Statistic, ValueNorms
from rewriters.subgraphs.context import VISIBLE
from rewriters.subgraphs.detectors.statistic import MAD_TO_SIGMA

__all__ = [
    "Columns",
    "answer_row",
    "answer_row_features",
    "answer_row_scored",
    "answer_row_seen",
    "answer_row_sum",
    "behind_first",
    "norm_features",
    "profile_features",
    "profile_logits",
    "profile_scores",
    "statistic_scores",
]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Columns:
    """Columns to train on.

    Attributes:
        features: (M, F) of `profile_features`, then (M, H) of `norm_features` where norms are read.
        anomalous: (M,), both classes present.
        place: (M,), the column's index in its map.
        normal: (K, F), mean features of each place over clean rows; None where a place means nothing.
        seen: (M,), the columns that the site sees; the others are there because other sites see them. None: all.
    """

    features: NDArray[np.float32]
    anomalous: NDArray[np.bool_]
    place: NDArray[np.int64]
    normal: NDArray[np.float64] | None = None
    seen: NDArray[np.bool_] | None = None

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(M,): `seen`."""
        return np.ones(len(self.features), np.bool_) if self.seen is None else self.seen

    def only(self, kept: NDArray[np.bool_]) -> Columns:
        """Some of the columns; kept: (M,)."""
        if kept.all():
            return self
        seen = None if self.seen is None else self.seen[kept]
        return Columns(self.features[kept], self.anomalous[kept], self.place[kept], self.normal, seen)


def profile_features(
    maps: Floats,
    valid: NDArray[np.bool_] | None = None,
    *,
    self_attention: bool = True,
    probes: Sequence[int] = (0,),
    every: int = 1,
    values: Floats | None = None,
    norms: ValueNorms | None = None,
    together: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Features of `rewriters.plan.Profile`: column means and probe rows of every head, × valid length, log1p.

    Args:
        maps: A (B, H, Q, K).
        valid: (B, K), columns that are no padding; None: all of them.
        self_attention: query row i and key column i are one token, so rows of padding stay out of the means.
        probes: query rows read one by one.
        every: the means are over only those rows whose number this divides.
        together: (B, K, K), columns j whose attention is added up in column k; None: each by itself.
        values, norms: see `norm_features`, whose features come last; without norms there are none.

    Returns: (B, K, F) with F = H · (1 + probes), probe by probe, heads innermost; H more with norms.
    """
    batch, heads, _, keys = maps.shape
    if valid is None:
        length = np.full((batch, 1, 1, 1), keys, np.float32)
        mean = maps[:, :, ::every].mean(2, keepdims=True)
    else:
        length = valid.sum(1, dtype=np.float32).reshape(batch, 1, 1, 1)
        counted, some = valid[:, None, None, ::every].astype(np.float32), maps[:, :, ::every]
        rows = counted / np.maximum(counted.sum(3, keepdims=True), 1)
        mean = rows @ some if self_attention else some.mean(2, keepdims=True)
    profile = np.concatenate([mean, maps[:, :, list(probes), :]], axis=2)
    relative = profile * length
    if together is not None:
        relative = relative @ together[:, None].astype(np.float32)
    features = np.log1p(relative)
    of_map = features.transpose(0, 3, 2, 1).reshape(batch, keys, heads * (1 + len(probes))).astype(np.float32)
    if values is None or norms is None:
        return of_map
    return np.concatenate([of_map, norm_features(values, norms, batch=batch, heads=heads)], axis=2)


def answer_row(maps: Floats, valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """The row where a decoder's answer is read, (B, H, K): the last valid one.

    Args:
        maps: A (B, H, Q, K), whose rows are the last Q of the tokens of its columns.
        valid: (B, K), columns that are no padding; None: all of them.
    """
    batch, _, rows, keys = maps.shape
    if valid is None:
        return np.asarray(maps[:, :, -1], np.float32)
    last = keys - 1 - valid[:, ::-1].argmax(1)
    chosen = maps[np.arange(batch), :, np.clip(last - (keys - rows), 0, rows - 1)]
    return np.asarray(chosen, np.float32)


def answer_row_features(
    maps: Floats,
    valid: NDArray[np.bool_] | None = None,
    *,
    values: Floats | None = None,
    norms: ValueNorms | None = None,
    seeing_rows: bool = False,
) -> NDArray[np.float32]:
    """Features of `rewriters.plan.Profile` with `answer_row`: entries of the answer row, × the number of columns that
    it sees, log1p; defined for every column, but only those of `answer_row_scored` are judged by them.

    Args:
        maps, valid: see `answer_row`.
        values, norms: see `norm_features`, whose features come last; without norms there are none.
        seeing_rows: see `Profile`.

    Returns: (B, K, H); 2 · H more with seeing_rows, and H more with norms.
    """
    row = answer_row(maps, valid)
    relative = row * _visible(row, valid).sum(1, dtype=np.float32)[:, None, None]
    if seeing_rows:
        relative = np.concatenate([relative, *_of_seeing_rows(maps, valid)], axis=1)
    of_map: NDArray[np.float32] = np.log1p(relative).transpose(0, 2, 1).astype(np.float32)
    if values is None or norms is None:
        return of_map
    return np.concatenate([of_map, norm_features(values, norms, batch=len(maps), heads=maps.shape[1])], axis=2)


def _of_seeing_rows(maps: Floats, valid: NDArray[np.bool_] | None) -> tuple[Floats, Floats]:
    """Entries × the number of columns that their row sees: mean and maximum (B, H, K) over rows that see the column."""
    sees = maps.mean(1) > VISIBLE
    if valid is not None:
        sees &= valid[:, None, :] & valid[:, maps.shape[3] - maps.shape[2] :, None]
    relative = maps * sees.sum(2, dtype=np.float32)[:, None, :, None]
    return relative.sum(2) / np.maximum(sees.sum(1, dtype=np.float32), 1)[:, None], relative.max(2)


def answer_row_scored(maps: Floats, valid: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """(B, K): the columns of both `answer_row_seen` and `behind_first`; a site by itself scores -inf at all others.

    Args:
        maps, valid: see `answer_row`.
    """
    seen = answer_row_seen(maps, valid)
    return seen & behind_first(np.ones_like(seen) if valid is None else valid)


def answer_row_seen(maps: Floats, valid: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """(B, K): the valid columns that the answer row sees.

    Args:
        maps, valid: see `answer_row`.
    """
    return _visible(answer_row(maps, valid), valid)


def behind_first(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(B, K): the valid columns without the first one, an attention sink, which never fires."""
    return np.asarray(valid & (np.cumsum(valid, 1) > 1))


def answer_row_sum(sites: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> NDArray[np.float64]:
    """What sites that detect together say of columns: the sum of their logits, as the graph adds them up (rule 3 of
    `rewriters.subgraphs.detectors.answer_row`). A site whose answer row does not see a column adds nothing there, and
    a column that no site sees scores -inf.

    Args:
        sites: logits (B, K) and `answer_row_seen` of each.
    """
    total: Any = sum(np.where(seen, logits, 0.0) for logits, seen in sites)
    return np.where(np.any([seen for _, seen in sites], axis=0), total, -np.inf)


def _visible(row: Floats, valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    seen: NDArray[np.bool_] = row.mean(1) > VISIBLE
    return seen if valid is None else seen & valid


def norm_features(values: Floats, norms: ValueNorms, *, batch: int, heads: int) -> NDArray[np.float32]:
    """Features of `rewriters.plan.ValueNorms`: the log-norm of what a column writes in each head.

    Args:
        values: V (B | 1, H | 1, K, D): samples or heads may share them.
        batch, heads: B and H of the map.

    Returns: (B, K, H).
    """
    written = values if norms.factor is None else values @ norms.factor
    features = np.log(np.sqrt(np.square(written, dtype=np.float64).sum(3)) + NORM_FLOOR).astype(np.float32)
    return np.broadcast_to(features, (batch, heads, features.shape[2])).transpose(0, 2, 1)


def profile_logits(detector: Profile, features: Floats) -> NDArray[np.float64]:
    """Scores before the sigmoid, features (..., F) → (...)."""
    x = (features.astype(np.float64) - detector.mean) / detector.std
    for index, layer in enumerate(detector.layers):
        x = (np.maximum(x, 0.0) if index else x) @ layer.weight.astype(np.float64) + layer.bias
    return np.asarray(x[..., 0])


def profile_scores(detector: Profile, features: Floats) -> NDArray[np.float64]:
    """Probabilities, features (..., F) → (...)."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(profile_logits(detector, features), -700, 700))))


def statistic_scores(
    detector: Statistic, maps: Floats, valid: NDArray[np.bool_], *, self_attention: bool = True
) -> NDArray[np.float64]:
    """Robust z-scores of `rewriters.plan.Statistic`, -inf at padding; sinks are scored like any other column.

    Only for detectors that judge columns by any number of rows and by mass only, as `fit` makes them.

    Args:
        maps: A (B, H, Q, K).
        valid: (B, K).
    """
    mean = maps.mean(1, dtype=np.float64)
    sees = (mean > VISIBLE) & valid[:, None, :]
    if self_attention:
        sees &= valid[:, :, None]
    mass = (mean * sees * sees.sum(2, keepdims=True)).sum(1) / np.maximum(sees.sum(1), 1)
    mass[~valid] = np.nan
    deviation = mass - np.nanmedian(mass, 1, keepdims=True)
    spread = np.nanmedian(np.abs(deviation), 1, keepdims=True)
    scores = deviation / (MAD_TO_SIGMA * spread + detector.floor)
    return np.where(valid, scores, -np.inf)
