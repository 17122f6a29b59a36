"""`cnn`: the paper's detector, one for all sites, on maps averaged over heads (eq. 5-6). Inputs of one fixed length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rewriters.errors import AtpatchError
from rewriters.plan import Cnn
from rewriters.sites import Site

from ...errors import DATA_MALFORMED
from ...inference.capture import SiteBatch

__all__ = ["CnnRecipe"]

MOST_BYTES = 512 << 20
"""Of maps kept to train on. If there are more, rows are dropped at random."""


class CnnRecipe:
    """See `Recipe`."""

    always = False

    def __init__(self, sites: Sequence[Site], rows: int, columns: int, seed: int) -> None:
        self._seed, self._generator = seed, np.random.default_rng(seed)
        self._budget = MOST_BYTES // (4 * max(rows * len(sites), 1))
        self._maps: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.bool_]] = []
        self._names: dict[str, None] = {}
        self._trained: Mapping[str, Cnn] = {}

    def observe(self, site: Site, batch: SiteBatch, anomalous: NDArray[np.bool_]) -> None:
        self._names[site.id] = None
        mean = batch.map.mean(1)
        keep = self._generator.random(len(mean)) < self._budget / mean[0].size
        self._maps.append(mean[keep])
        self._labels.append(anomalous[keep])

    def unsuitable(self, by_place: Mapping[str, bool]) -> AtpatchError | None:
        if all(by_place.values()) and len({part.shape[1:] for part in self._maps}) <= 1:
            return None
        return DATA_MALFORMED(
            "a cnn detector needs maps of one fixed size without padding", "fit a profile detector, which takes any"
        )

    def train(self, by_place: Mapping[str, bool], tick: Callable[[int, int], None]) -> Mapping[str, Cnn]:
        from ..detectors.cnn import train_cnn

        maps, labels = np.concatenate(self._maps), np.concatenate(self._labels)
        self._trained = dict.fromkeys(self._names, train_cnn(maps, labels, seed=self._seed, tick=tick))
        return self._trained

    def train_together(self, by_place: Mapping[str, bool]) -> Mapping[str, Cnn]:
        """The same detector, since it was trained on all sites: a clean sample that stands out at one of them does not
        at the others.
        """
        return self._trained if len(self._names) > 1 else {}

    def logits(self, site: Site, detector: Cnn, batch: SiteBatch) -> NDArray[np.float64]:
        from ..detectors.cnn import cnn_logits

        return cnn_logits(detector, batch.map.mean(1))

    def anchored(self, detector: Cnn, center: float, scale: float) -> Cnn:
        from ..detectors.cnn import anchor

        return anchor(detector, center, scale)
