"""Group fairness of predictions, by fairlearn (extra `evidence`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EXTRA_MISSING
from ..inference.datasets import Ints

__all__ = ["NAMES", "fairness"]

NAMES = {
    "spd": "statistical parity difference",
    "average_odds": "average odds difference",
    "equal_opportunity": "equal opportunity difference",
}


def fairness(predictions: Ints, labels: Ints | None, protected: NDArray[Any], positive: int) -> dict[str, float]:
    """Greatest differences between any two groups: 0 is fair, 1 the worst.

    Args:
        predictions, labels: (N,); without labels only the parity of predictions is known.
        protected: (N,), groups by value.
        positive: the class that is the favorable outcome.

    Returns: `spd`, of the rates at which the groups get the positive class; `equal_opportunity`, of their true positive
        rates; `average_odds`, the mean of that and of the difference of their false positive rates.

    Raises:
        AtpatchError: ATP051 without fairlearn.
    """
    try:
        from fairlearn import metrics  # type: ignore[import-untyped]
    except ImportError as error:
        raise EXTRA_MISSING("group metrics need fairlearn", "pip install 'atpatch-onnx[evidence]'") from error
    chosen = (predictions == positive).astype(np.int64)
    if labels is None:
        # The selection rate does not use the labels, but fairlearn requires the argument.
        return {"spd": float(metrics.demographic_parity_difference(chosen, chosen, sensitive_features=protected))}
    truth = (labels == positive).astype(np.int64)
    return {
        "spd": float(metrics.demographic_parity_difference(truth, chosen, sensitive_features=protected)),
        "average_odds": float(
            metrics.equalized_odds_difference(truth, chosen, sensitive_features=protected, agg="mean")
        ),
        "equal_opportunity": float(metrics.equal_opportunity_difference(truth, chosen, sensitive_features=protected)),
    }
