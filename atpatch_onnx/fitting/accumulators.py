"""One pass over the train part: column features to train on, and sums that become the benign pair.

Memory does not grow with the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import BenignPair, ValueNorms
from rewriters.sites import Site

from ..inference.capture import SiteBatch
from .detectors.features import Columns, answer_row_features, answer_row_seen, behind_first, profile_features

__all__ = ["BenignSums", "ColumnSample", "Visibility", "content_columns"]

Bools = NDArray[np.bool_]

MOST_NORMAL = 200_000
"""Normal columns kept for each site, about; all anomalous ones are kept."""
MOST_BENIGN_ENTRIES = 1 << 16
"""Of a benign attention (H, Q, K). Above it the mean over query rows is stored, so that a hotfix stays small."""


class ColumnSample:
    """Features of the valid columns of a site, normal ones thinned out evenly, and the mean features of every place
    over clean rows.

    Args:
        rows: how many rows will come.
        probes, every, norms, answer_row, seeing_rows: see `Profile`. With `answer_row` also columns that only other
            sites see, as in front of a sliding window, so that all sites keep the same columns.
    """

    def __init__(
        self,
        site: Site,
        rows: int,
        columns: int,
        probes: Sequence[int],
        every: int,
        generator: np.random.Generator,
        norms: ValueNorms | None = None,
        answer_row: bool = False,
        seeing_rows: bool = False,
    ) -> None:
        self._site, self._probes, self._every, self._generator = site, probes, every, generator
        self._norms, self._answer_row, self._seeing_rows = norms, answer_row, seeing_rows
        self._keep = min(1.0, MOST_NORMAL / max(rows * columns, 1))
        self._features: list[NDArray[np.float32]] = []
        self._anomalous: list[Bools] = []
        self._seen: list[Bools] = []
        self._place: list[NDArray[np.int64]] = []
        self._normal: Any = 0.0
        self._clean = 0

    def add(self, batch: SiteBatch, anomalous: Bools) -> None:
        """anomalous: (B, K)."""
        features, candidates, seen = self._read(batch)
        chosen = candidates & (anomalous | (self._generator.random(anomalous.shape) < self._keep))
        self._features.append(features[chosen])
        self._anomalous.append(anomalous[chosen])
        self._seen.append(seen[chosen])
        self._place.append(np.nonzero(chosen)[1])
        clean = ~anomalous.any(1)
        sums = features[clean].sum(0, dtype=np.float64)
        # Batches of texts differ in width; then no place means anything, and the means are not used.
        self._normal = self._normal + sums if np.shape(self._normal) in ((), sums.shape) else sums
        self._clean += int(clean.sum())

    def _read(self, batch: SiteBatch) -> tuple[NDArray[np.float32], Bools, Bools]:
        """Features (B, K, F), the columns that some site may judge (B, K), and those that this one sees (B, K)."""
        maps, valid = batch.map, batch.valid
        if self._answer_row:
            features = answer_row_features(
                maps, valid, values=batch.values, norms=self._norms, seeing_rows=self._seeing_rows
            )
            return features, behind_first(valid), answer_row_seen(maps, valid)
        features = profile_features(
            maps,
            valid,
            self_attention=self._site.self_attention,
            probes=self._probes,
            every=self._every,
            values=batch.values,
            norms=self._norms,
        )
        return features, valid, valid

    def seen(self) -> tuple[int, int]:
        """How many of the kept columns the site sees, labeled ones and others: none in front of a sliding window."""
        labeled = np.concatenate(self._anomalous)[np.concatenate(self._seen)]
        return int(labeled.sum()), int((~labeled).sum())

    def columns(self, *, by_place: bool) -> Columns:
        """by_place: a place means something, so columns are compared with its normal profile."""
        normal = self._normal / max(self._clean, 1) if by_place else None
        features, place = np.concatenate(self._features), np.concatenate(self._place)
        return Columns(features, np.concatenate(self._anomalous), place, normal, np.concatenate(self._seen))


class Visibility:
    """Whether every valid query row gives mass to every valid column, and whether every column is valid, on all maps
    seen.
    """

    def __init__(self, site: Site) -> None:
        self._self_attention, self._unmasked = site.self_attention, site.unmasked
        self.every_row_sees_every_column = True
        self.no_padding = True

    def add(self, batch: SiteBatch) -> None:
        hidden = (batch.map.max(1) <= 0) & batch.valid[:, None, :]
        if self._self_attention:
            hidden &= batch.valid[:, :, None]
        self.every_row_sees_every_column &= self._unmasked or not hidden.any()
        self.no_padding &= bool(batch.valid.all())


class BenignSums:
    """Means over clean rows of attention and values: per column (eq. 10) where a column is always the same place, else
    of content tokens.

    Content tokens are the valid columns but the first and the last, where attention sinks ([CLS], [SEP], BOS) sit.
    """

    def __init__(self, site: Site, per_column: bool) -> None:
        self._site, self._per_column = site, per_column
        self._attention: Any = 0.0
        self._values: Any = 0.0
        self._seen: Any = 0.0
        self._count: Any = 0.0

    def add(self, batch: SiteBatch) -> None:
        batch_size, heads, _, keys = batch.map.shape
        values = np.broadcast_to(batch.values, (batch_size, heads, keys, batch.values.shape[3]))
        if self._per_column:
            share = batch.map / np.maximum(batch.map.sum(3, keepdims=True), np.finfo(np.float32).tiny)
            self._attention = self._attention + share.sum(0, dtype=np.float64)
            self._values = self._values + values.sum(0, dtype=np.float64)
            self._count += batch_size
            return
        content = content_columns(batch.valid)
        sees = (batch.map.max(1) > 0) & batch.valid[:, None, :]
        relative = batch.map * sees.sum(2)[:, None, :, None]
        counted = sees & content[:, None, :]
        if self._site.self_attention:
            counted &= batch.valid[:, :, None]
        self._attention = self._attention + np.einsum("bhqk,bqk->h", relative, counted, dtype=np.float64)
        self._seen += counted.sum()
        self._values = self._values + np.einsum("bhkd,bk->hd", values, content, dtype=np.float64)
        self._count += content.sum()

    def pair(self) -> BenignPair:
        """The mean pair, attention at level 1."""
        values = self._values / max(self._count, 1)
        if not self._per_column:
            attention = self._attention / max(self._seen, 1)
            return BenignPair(attention.astype(np.float32), values[:, None, :].astype(np.float32))
        attention = self._attention / max(self._count, 1)
        if attention.size > MOST_BENIGN_ENTRIES:
            attention = attention.mean(1, keepdims=True)
        return BenignPair(attention.astype(np.float32), values.astype(np.float32))


def content_columns(valid: Bools) -> Bools:
    """(B, K): valid columns without each row's first and last, unless nothing would be left."""
    position = np.cumsum(valid, 1)
    inner = valid & (position > 1) & (position < position[:, -1:])
    return np.where(inner.any(1, keepdims=True), inner, valid)
