"""Defenses that refuse requests: a score for each request, a bar at some share of clean requests, and what that does to
the figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..answers import Figures, judge, wilson
from ..case import MOST_CLEAN_FLAGGED, Case

__all__ = ["RATES", "refusing"]

RATES = (MOST_CLEAN_FLAGGED, 0.05)
"""Shares of clean requests that may be refused: that of the hotfixes, and one at which such defenses are usually shown.
"""

Scores = NDArray[np.floating]


def refusing(case: Case, spare: Scores, clean: Scores, attacked: Scores) -> Figures:
    """Figures by rate, where requests with a score above the bar are refused: an error on a clean request, the end of
    an attack.

    Args:
        spare: (N,), scores of clean rows that set the bar; clean, attacked: of the test sets.
    """
    before, triggered = (answers.predictions for answers in case.before)
    figures: Figures = {}
    for rate in RATES:
        bar = np.quantile(spare, 1 - rate, method="higher")
        on_clean, on_attacked = np.where(clean > bar, -1, before), np.where(attacked > bar, -1, triggered)
        figures[f"{rate:g}"] = {
            **judge(case.clean, case.attacked, before, on_clean, on_attacked),
            "clean_flagged": wilson(clean > bar),
            "attacked_flagged": wilson(attacked > bar),
        }
    return figures
