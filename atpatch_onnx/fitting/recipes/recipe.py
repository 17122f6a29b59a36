"""What every kind of detector that is trained on labeled columns can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rewriters.errors import AtpatchError
from rewriters.plan import Detector
from rewriters.sites import Site

from ...inference.capture import SiteBatch

__all__ = ["PROBES", "Recipe"]

PROBES = (0,)
"""Query rows whose own attention is a feature: a classifier reads the first ([CLS] or similar)."""


class Recipe(Protocol):
    """One kind of detector, for all sites of a fit.

    always: it flags every request, so it needs no operating point.
    """

    always: bool

    def observe(self, site: Site, batch: SiteBatch, anomalous: NDArray[np.bool_]) -> None:
        """Take in one batch of the train part; anomalous: (B, K)."""

    def unsuitable(self, by_place: Mapping[str, bool]) -> AtpatchError | None:
        """Why the data do not admit this kind, from the graph and what was observed so far; None where they do."""

    def train(self, by_place: Mapping[str, bool], tick: Callable[[int, int], None]) -> Mapping[str, Detector]:
        """A detector for each site asked for, of those observed.

        Args:
            by_place: site id → a column is the same place in every sample.
            tick: called with the number of steps done and the number of all steps.
        """

    def train_together(self, by_place: Mapping[str, bool]) -> Mapping[str, Detector]:
        """Detectors for the same sites whose logits are to be added up; call it after `train`. None where the kind or
        the maps do not allow it.
        """

    def logits(self, site: Site, detector: Any, batch: SiteBatch) -> NDArray[np.float64]:
        """Scores before the sigmoid, (B, K); -inf at columns that the detector does not judge; entries of padding mean
        nothing.
        """

    def anchored(self, detector: Any, center: float, scale: float) -> Detector:
        """The detector with its logits shifted and scaled: `center` becomes 0, a step of 1 / `scale` becomes 1."""
