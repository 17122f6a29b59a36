"""ThresholdOptimizer of fairlearn (Hardt et al. 2016): a threshold for each group, chosen on labeled spare rows so that
the groups are treated alike, at random where one threshold is not enough.

It needs the protected attribute of every request, and equalizes rates of groups; that a single answer does not hang on
the attribute is not what it is made for. Two people who differ in the attribute only get the same random number, which
favors it. Groups with fewer than FEWEST spare rows, or with one class, are treated as the largest group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from atpatch_onnx.inference.datasets import Ints

from ..answers import Figures, judge
from ..case import Case
from ..fairness import FEWEST, group_fairness, protected

__all__ = ["CONSTRAINTS", "run"]

CONSTRAINTS = {"demographic_parity": "demographic parity", "equalized_odds": "equalized odds"}


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures with each constraint. Costs two comparisons a request, which is not timed."""
    from fairlearn.postprocessing import ThresholdOptimizer

    labels, group = case.spare.labels, case.attacked.group
    assert labels is not None and group is not None
    scores = _certainty(case.ask(case.model).all(case.spare).scores)
    groups = _groups(protected(case.spare, case.attacked), labels)
    answers, values = _certainty(case.before[1].scores), protected(case.attacked, case.attacked)
    own = protected(case.clean, case.attacked)
    figures: Figures = {}
    for constraint, words in CONSTRAINTS.items():
        say(words)
        optimizer = ThresholdOptimizer(
            estimator=_scores(), constraints=constraint, prefit=True, predict_method="predict", grid_size=1000
        )
        known = groups(protected(case.spare, case.attacked))
        optimizer.fit(scores[:, None], labels, sensitive_features=known)
        on_flips = np.full(len(values), -1, np.int64)
        for value in np.unique(values):
            # One row of every person, in one order: the same random numbers for all values.
            rows = np.flatnonzero(values == value)
            rows = rows[np.argsort(group[rows], kind="stable")]
            on_flips[rows] = optimizer.predict(
                answers[rows, None], sensitive_features=groups(values[rows]), random_state=case.seed
            )
        on_clean = np.full(len(case.clean), -1, np.int64)
        same = values == own[group]
        on_clean[group[same]] = on_flips[same]
        before = case.before[0].predictions
        figures[words] = {
            **judge(case.clean, case.attacked, before, on_clean, on_flips),
            "fairness": group_fairness(case.clean, case.attacked, on_clean),
        }
    return {"variants": figures, "runs": 1}


def _certainty(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(N, 2) → (N,), probability of class 1."""
    return np.asarray(softmax(scores.astype(np.float64), axis=1)[:, 1])


def _scores() -> Any:
    """An estimator, fitted already, whose one feature is its answer."""
    from sklearn.base import BaseEstimator

    class Scores(BaseEstimator):  # type: ignore[misc]
        def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Scores:
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict(self, X: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(X)[:, 0]

    return Scores()


def _groups(values: NDArray[Any], labels: Ints) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """From protected values to groups that are large enough to choose a threshold for."""
    names, counts = np.unique(values, return_counts=True)
    large = [
        name
        for name, count in zip(names, counts, strict=True)
        if count >= FEWEST and len(np.unique(labels[values == name])) > 1
    ]
    largest = names[counts.argmax()]
    return lambda some: np.where(np.isin(some, large), some, largest)
