"""Plain rivals of a patch on a table: what can be done to the answers, or to the request, without touching the model.

1. *Thresholds* of the favorable class, one for each group, by fairlearn's ThresholdOptimizer (extra `evidence`), fitted
   on rows of their own; once for equal rates of the favorable class, once for equalized odds. They need to know the
   protected attribute of every request. Only for models with two classes.
2. *The column dropped*: every request gets the attribute's most frequent value. The model was trained with the column,
   so it needs some value.

Each gives predictions for the same rows as the graphs; they stand in the tables as further graphs do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EXTRA_MISSING
from ..inference.datasets import DataSet, Ints
from .outputs import Outputs

__all__ = ["DROPPED", "THRESHOLDS", "Rivals", "rival_outputs"]

Scores = Callable[[DataSet], NDArray[np.float32]]

THRESHOLDS = {"thresholds, parity": "demographic_parity", "thresholds, odds": "equalized_odds"}
DROPPED = "column dropped"


@dataclass(frozen=True, eq=False)
class Rivals:
    """What the rivals are made from.

    Attributes:
        rows: with labels; nothing else may be judged on them.
        groups: set, and "rows" → the protected value of each of its rows.
        at: graph input and place of the attribute.
    """

    rows: DataSet
    groups: Mapping[str, NDArray[Any]]
    at: tuple[str, int]


def rival_outputs(
    rivals: Rivals,
    sets: Mapping[str, DataSet],
    original: Mapping[str, Outputs],
    scores: Scores,
    positive: int,
) -> dict[str, dict[str, Outputs]]:
    """Rival → set → its answers, as class scores 0 and 1.

    Args:
        original: set → its outputs.
        scores: of the original, (N, C) for rows that it has not run on.
        positive: the class that is the favorable outcome.

    Raises:
        AtpatchError: ATP051 without fairlearn.
    """
    found: dict[str, dict[str, Outputs]] = {}
    given = {name: run.scores for name, run in original.items() if run.scores is not None}
    known = scores(rivals.rows)
    if known.shape[1] == 2 and rivals.rows.labels is not None:
        for name, constraint in THRESHOLDS.items():
            answer = _thresholds(rivals, known, constraint, positive)
            if answer is not None:
                found[name] = {one: Outputs(answer(given[one], rivals.groups[one])) for one in given}
    source, place = rivals.at
    values, counts = np.unique(rivals.rows.inputs[source][:, place], return_counts=True)
    usual = values[counts.argmax()]
    found[DROPPED] = {name: Outputs(scores(_with(data, source, place, usual))) for name, data in sets.items()}
    return found


def _with(data: DataSet, source: str, place: int, value: Any) -> DataSet:
    changed = data.inputs[source].copy()
    changed[:, place] = value
    return DataSet({**data.inputs, source: changed}, labels=data.labels)


def _thresholds(
    rivals: Rivals, known: NDArray[np.float32], constraint: str, positive: int
) -> Callable[[NDArray[np.float32], NDArray[Any]], NDArray[np.float32]] | None:
    """Scores and groups → answers; None where a group of the rows has only one label."""
    try:
        from fairlearn.postprocessing import ThresholdOptimizer  # type: ignore[import-untyped]
    except ImportError as error:
        raise EXTRA_MISSING("the rivals need fairlearn", "pip install 'atpatch-onnx[evidence]'") from error
    assert rivals.rows.labels is not None
    groups, truth = rivals.groups["rows"], (rivals.rows.labels == positive).astype(np.int64)
    kept = [one for one in np.unique(groups) if len(np.unique(truth[groups == one])) == 2]
    if len(kept) < 2:
        return None
    chosen = np.isin(groups, kept)
    optimizer = ThresholdOptimizer(
        estimator=_estimator(),
        constraints=constraint,
        objective="accuracy_score",
        prefit=True,
        predict_method="predict",
    )
    optimizer.fit(_margin(known[chosen], positive), truth[chosen], sensitive_features=groups[chosen])

    def answer(scores: NDArray[np.float32], own: NDArray[Any]) -> NDArray[np.float32]:
        favorable = np.asarray(scores.argmax(1) == positive)
        # Groups without a threshold keep the model's own answer.
        seen = np.isin(own, kept)
        if seen.any():
            favorable[seen] = optimizer.predict(
                _margin(scores[seen], positive), sensitive_features=own[seen], random_state=0
            )
        return _as_scores(favorable, positive)

    return answer


def _as_scores(favorable: NDArray[np.bool_], positive: int) -> NDArray[np.float32]:
    answers: Ints = np.where(favorable, positive, 1 - positive)
    return np.eye(2, dtype=np.float32)[answers]


def _margin(scores: NDArray[np.float32], positive: int) -> NDArray[np.float64]:
    """(N, 1), how far the favorable class is ahead."""
    return np.asarray(scores[:, [positive]] - scores[:, [1 - positive]], np.float64)


def _estimator() -> Any:
    """The model for fairlearn: its rows are the margins already."""
    from sklearn.base import BaseEstimator

    class Margin(BaseEstimator):  # type: ignore[misc]
        def fit(self, x: NDArray[Any], y: NDArray[Any]) -> Margin:
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(x)[:, 0]

    return Margin()
