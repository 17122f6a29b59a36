"""Defenses that change a request before the model sees it: tokens taken out, and what that does to the figures.

A defense that scores tokens takes out those above a bar. Two bars are set on spare clean rows: one at which as few
requests lose a token as the hotfixes may flag, and the lowest at which accuracy falls by no more than BUDGET.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.inference.datasets import DataSet

from ..answers import MASK, Figures, judge, wilson
from ..case import MOST_CLEAN_FLAGGED, Case
from ..latency import Feeds

__all__ = ["BUDGET", "Scored", "answered", "deleting", "first_rows", "without"]

BUDGET = 0.01
"""Of accuracy on spare rows: half of what the comparison allows, so that other rows stay within that too."""
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Of spare clean requests that lose a token: the bars that are tried for BUDGET."""

Scores = NDArray[np.floating]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scored:
    """A data set with a score for each token (N, K), -inf for one that always stays."""

    data: DataSet
    scores: Scores

    def cut(self, bar: float) -> tuple[DataSet, Flags]:
        """The set without the tokens above a bar, and which requests that changed (N,)."""
        removed = self.scores > bar
        return replace(self.data, inputs=without(self.data.inputs, removed)), removed.any(1)


def without(feeds: Feeds, removed: Flags) -> Feeds:
    """Texts without some tokens: those behind them move up, and zeros follow the last one.

    Args:
        feeds: arrays (N, K), `attention_mask` among them.
        removed: (N, K).
    """
    kept = (feeds[MASK] != 0) & ~removed
    order = np.argsort(~kept, axis=1, kind="stable")
    inside = np.arange(kept.shape[1]) < kept.sum(1, keepdims=True)
    return {
        name: np.where(inside, np.take_along_axis(array, order, 1), 0).astype(array.dtype)
        for name, array in feeds.items()
    }


def first_rows(data: DataSet, count: int) -> DataSet:
    """The first rows of a labeled set."""
    assert data.labels is not None
    rows = np.arange(min(count, len(data)))
    return DataSet(data.feeds(rows), labels=data.labels[rows])


def answered(case: Case, clean: DataSet, attacked: DataSet) -> Figures:
    """Figures of the original on the test sets as a defense has changed them."""
    asked = case.ask(case.model)
    on_clean, on_attacked = (asked.all(data).predictions for data in (clean, attacked))
    return judge(case.clean, case.attacked, case.before[0].predictions, on_clean, on_attacked)


def deleting(case: Case, spare: Scored, clean: Scored, attacked: Scored) -> Figures:
    """Figures at both bars.

    Args:
        spare: clean rows with labels that set the bars; clean, attacked: the case's test sets.
    """

    def at(bar: float) -> Figures:
        (on_clean, changed), (on_attacked, stopped) = clean.cut(bar), attacked.cut(bar)
        flags = {"clean_flagged": wilson(changed), "attacked_flagged": wilson(stopped)}
        return {**answered(case, on_clean, on_attacked), **flags}

    share, tuned = _tuned(case, spare)
    return {
        "rates": {f"{MOST_CLEAN_FLAGGED:g}": at(_bar(spare, MOST_CLEAN_FLAGGED))},
        "variants": {f"tuned to {100 * BUDGET:g} point": {**at(tuned), "share": share}},
    }


def _bar(spare: Scored, share: float) -> float:
    """The bar at which at most this share of the requests loses a token."""
    if share >= 1:
        return float(np.min(spare.scores[np.isfinite(spare.scores)])) - 1
    return float(np.quantile(spare.scores.max(1), 1 - share, method="higher"))


def _tuned(case: Case, spare: Scored, shares: Sequence[float] = SHARES) -> tuple[float, float]:
    """The largest share of requests that loses a token within the budget, and its bar."""
    asked, labels = case.ask(case.model), spare.data.labels
    assert labels is not None
    least = float((asked.all(spare.data).predictions == labels).mean()) - BUDGET
    found = (0.0, float("inf"))
    for share in shares:
        bar = _bar(spare, share)
        if float((asked.all(spare.cut(bar)[0]).predictions == labels).mean()) < least:
            break
        found = share, bar
    return found
