"""A fit for a model without classes: rows are judged by what the original answers to their clean twins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION, DATA_MALFORMED
from ..hotfix.likeness import LikenessFigures, Spread
from ..inference.datasets import DataSet
from ..inference.model_reading import Reading, all_values
from ..inference.prediction import Served
from ..inference.reading import Expected, Twins, low_and_median
from ..inference.runner import Runner
from .passes import Wanted
from .splits import Part

__all__ = ["ByTwin"]


@dataclass(frozen=True, eq=False)
class ByTwin:
    """What rows should be answered.

    Attributes:
        kind: what the model answers, one of `output_kinds.KINDS`.
        original: (N, ...) the original's answers.
    """

    kind: str
    expected: Expected
    original: NDArray[Any]

    @classmethod
    def of(cls, original: Runner, data: DataSet, reading: Reading) -> ByTwin:
        """From a run of the original on all rows.

        Raises:
            AtpatchError: ATP056 where the clean rows are too few, or a triggered row has no clean twin.
        """
        twins, clean = Twins.debugging_set(data)
        if alone := int((twins.clean < 0).sum()):
            raise DATA_MALFORMED(
                f"{alone} triggered rows have no clean twin (pair is -1), by which they would be judged",
                "leave these rows out, or make the set with 'debugset'",
            )
        values = all_values(original, data, reading.output)
        rows = replace(data, inputs=data.feeds(clean), columns=None, pair=None)
        return cls(reading.kind, reading.expected(values[clean], twins, rows, data), values)

    def wanted(self, wanted: Wanted) -> Wanted:
        """A second run is accepted always, since a flip is one of a class, which the graph does not give; and excision
        is tried.

        Raises:
            AtpatchError: ATP060 where flips, or healing, are asked for.
        """
        if wanted.accept == "flip":
            raise BAD_OPTION(f"--accept flip needs class scores, and the model answers with {self.kind}")
        if wanted.mend == "heal":
            raise BAD_OPTION(f"healing is judged by the tokens of an answer, and the model answers with {self.kind}")
        return replace(wanted, accept="always", tries_excision=wanted.mend == "auto")

    def likeness(self, served: Served, data: DataSet, part: Part, threshold: float) -> LikenessFigures:
        """How near answers are to those that are expected, on one part of the rows."""
        after = served.likeness(data, part.rows, threshold, self.expected)
        return {
            "kind": self.kind,
            "clean": _spread(after[part.clean]),
            "triggered_before": _spread(self.expected.likeness(part.anomalous, self.original[part.anomalous])),
            "triggered": _spread(after[part.anomalous]),
        }


def _spread(found: NDArray[np.float64]) -> Spread:
    known = found[~np.isnan(found)]
    if not len(known):
        return {"n": 0}
    low, median = low_and_median(known)
    return {"n": len(known), "median": median, "low": low, "mean": float(known.mean())}
