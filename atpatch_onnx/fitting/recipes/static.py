"""`static`: the labeled columns, flagged in every request.

For a protected attribute whose place is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rewriters.errors import AtpatchError
from rewriters.plan import Static
from rewriters.sites import Site

from ...errors import DATA_MALFORMED
from ...inference.capture import SiteBatch

__all__ = ["StaticRecipe"]


class StaticRecipe:
    """See `Recipe`."""

    always = True

    def __init__(self, sites: Sequence[Site], rows: int, columns: int, seed: int) -> None:
        self._sites = sites
        self._ever = np.zeros(columns, bool)
        self._always = np.ones(columns, bool)

    def observe(self, site: Site, batch: SiteBatch, anomalous: NDArray[np.bool_]) -> None:
        # A batch of texts may be cut to its length; nothing is labeled beyond.
        labeled = np.zeros((len(anomalous), len(self._ever)), bool)
        labeled[:, : anomalous.shape[1]] = anomalous
        labeled = labeled[labeled.any(1)]
        self._ever |= labeled.any(0)
        self._always &= labeled.all(0)

    def unsuitable(self, by_place: Mapping[str, bool]) -> AtpatchError | None:
        if not self._ever.any() or np.array_equal(self._ever, self._always):
            return None
        return DATA_MALFORMED(
            "a static detector needs the same columns labeled in every anomalous row",
            "fit a profile detector: this fault moves",
        )

    def train(self, by_place: Mapping[str, bool], tick: Callable[[int, int], None]) -> Mapping[str, Static]:
        columns = tuple(int(place) for place in np.flatnonzero(self._ever))
        return {site.id: Static(columns) for site in self._sites}

    def train_together(self, by_place: Mapping[str, bool]) -> Mapping[str, Static]:
        return {}

    def logits(self, site: Site, detector: Static, batch: SiteBatch) -> NDArray[np.float64]:
        listed = np.isin(np.arange(batch.map.shape[3]), detector.columns)
        return np.broadcast_to(np.where(listed, 1.0, -1.0), batch.valid.shape)

    def anchored(self, detector: Static, center: float, scale: float) -> Static:
        return detector
