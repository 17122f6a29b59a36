"""What patched graphs do on the selection part, while candidates are compared."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.datasets import Ints
from ..inference.prediction import Served
from .calibration import BenignChoice, thresholds
from .second_runs import Answers, SecondRuns
from .site_selection import Candidate
from .training import Context

__all__ = ["Outcomes", "PatchedRuns", "levels"]

MARGIN = 0.1
"""In logits. A row this close below the threshold is run too, because graph and numpy round scores differently."""


@dataclass(frozen=True)
class Outcomes:
    """What a candidate does. Rows that are not near the threshold were not run: they have the original's predictions.

    Attributes:
        predictions: (N,).
        probabilities: of the classes (N, C); None if nothing was run.
        flagged: (N,) whether any site flags the row.
    """

    predictions: Ints
    probabilities: NDArray[np.floating[Any]] | None
    flagged: NDArray[np.bool_]


def levels(context: Context, candidate: Candidate) -> list[float]:
    """The thresholds to try, see `thresholds`."""
    part, peaks = context.parts.selection, candidate.peaks
    return thresholds(peaks[part.clean], peaks[part.anomalous], context.most_flagged)


class PatchedRuns:
    """Runs candidates on the selection part.

    Args:
        original: predictions of the original (N,).
        output: graph output whose argmax is the prediction.
        second: answers without a first run, where these can be had.
    """

    def __init__(self, context: Context, original: Ints, output: str, second: SecondRuns) -> None:
        self._context, self._original, self._output, self._second = context, original, output, second
        self._live: tuple[Hashable, Served] | None = None

    def outcomes(
        self, candidate: Candidate, choice: BenignChoice, threshold: float, *, served: bool = False
    ) -> Outcomes:
        """What a candidate does at a threshold.

        Args:
            served: by the very graph that is served.
        """
        from scipy.special import softmax

        rows, flagged = self._near(candidate, threshold), np.zeros(len(self._original), bool)
        if not len(rows):
            return Outcomes(self._original, None, flagged)
        found = self._answers(candidate, choice, threshold, rows, served)
        ran = np.isin(np.arange(len(self._original)), rows)
        predictions = np.where(ran, found.scores.argmax(1), self._original)
        # Of rows that were not run only the prediction is known: count it as certain.
        certain = np.eye(found.scores.shape[1])[self._original]
        probabilities = np.where(ran[:, None], softmax(found.scores, axis=1), certain)
        return Outcomes(predictions, probabilities, found.flagged)

    def serve(self, candidate: Candidate, choice: BenignChoice) -> Served:
        """The session. The last one is kept."""
        key = candidate.key, choice
        if self._live is None or self._live[0] != key:
            sites = [one.site for one in candidate.sites]
            self._live = key, self._context.serve(candidate.plan(choice), sites, self._output)
        return self._live[1]

    def _answers(
        self, candidate: Candidate, choice: BenignChoice, threshold: float, rows: Ints, served: bool
    ) -> Answers:
        if not served:
            everywhere = self._near(candidate, levels(self._context, candidate)[0])
            known = self._second.answers(candidate, choice, threshold, everywhere)
            if known is not None:
                return known
        scores, flags = self.serve(candidate, choice).scores(self._context.data, rows, threshold)
        return Answers(scores, np.asarray(flags.any(1)))

    def _near(self, candidate: Candidate, threshold: float) -> Ints:
        """Rows that a site flags, or nearly."""
        rows = self._context.parts.selection.rows
        if not 0 < threshold < 1:
            return rows
        return rows[candidate.peaks[rows] > math.log(threshold / (1 - threshold)) - MARGIN]
