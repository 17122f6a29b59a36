"""Dropping the column without training again: the model is not told the protected attribute, so that it cannot matter.

Either its answers to all values are averaged, each weighted by how many spare rows have it (as many runs as there are
values, in one batch); or every request gets the commonest value (no cost). UF is 0 by construction: what is measured is
the accuracy. Nothing is learned or tuned.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atpatch_onnx.benchmark.paired_latency import Request

from ..answers import Figures, judge
from ..case import Case
from ..fairness import place, protected, unaware
from ..latency import Feeds, ratio, requests, samples

__all__ = ["averaged", "constant"]


def averaged(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures of averaged answers, and the cost."""
    clean, (before, flipped), group = case.clean, case.before, case.attacked.group
    assert group is not None
    answers = unaware(case.spare, case.attacked, flipped.scores)
    figures = judge(clean, case.attacked, before.predictions, answers, answers[group])
    (name, column), values = place(case.attacked), np.unique(protected(case.attacked, case.attacked))
    say(f"{len(values)} values")

    def guarded(feeds: Feeds) -> Request:
        def ask() -> object:
            rows = np.repeat(feeds[name], len(values), axis=0)
            rows[:, column] = values
            return plain({name: rows})()

        return ask

    plain = requests(case, None)
    return {**figures, "values": len(values), "runs": len(values), "latency": ratio(plain, guarded, samples(case))}


def constant(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures where every request has the commonest value."""
    values, counts = np.unique(protected(case.spare, case.attacked), return_counts=True)
    commonest, group = values[counts.argmax()], case.attacked.group
    assert group is not None
    rows = np.flatnonzero(protected(case.attacked, case.attacked) == commonest)
    answers = np.full(len(case.clean), -1, np.int64)
    answers[group[rows]] = case.before[1].predictions[rows]
    assert (answers >= 0).all(), "every group has a row of every value"
    return {**judge(case.clean, case.attacked, case.before[0].predictions, answers, answers[group]), "runs": 1}
