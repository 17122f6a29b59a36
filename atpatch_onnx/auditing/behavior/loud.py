"""Loud sites: attention sites where a single column draws far more than is usual in this model on these rows.

This is a hint where to look, and no evidence: attention sinks are loud in good models, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...inference.capture import Capture
from ...inference.padding import common_mask
from ..budget import Budget
from ..case import Case
from ..finding import Checked
from ..rule import Rule
from .rows import Rows

__all__ = ["RULE", "Loudness", "check"]

RULE = Rule(
    "behavior",
    "AUD205",
    "a site where one column draws nearly all attention",
    "First and last tokens often draw much attention in good models, so they are left out. Another column that draws"
    " several times what the loudest columns of other sites draw is worth a look.",
)
ROWS = 64
TIMES = 4.0
"""So many times the median over the sites of the loudest column. In the clean film-review model of
`models/results/audit.json` the loudest site has 3.1 times the median.
"""
LEAST_SITES = 3


@dataclass(frozen=True)
class Loudness:
    """The loudest column of a site: mean attention over heads, queries and rows, in multiples of an even share."""

    site: str
    loudness: float
    column: int

    def to_json(self) -> dict[str, Any]:
        return {"site": self.site, "loudness": round(self.loudness, 3), "column": self.column}


def check(case: Case, rows: Rows, budget: Budget) -> tuple[Checked, list[Loudness]]:
    """Measure every site on some rows.

    Raises:
        OutOfTime: the budget is used up.
        AtpatchError: what running raises.
    """
    if not case.sites:
        return Checked(not_tried=(RULE.not_tried("the model has no attention site"),)), []
    mask = common_mask(case.sites, rows.data)
    capture = Capture(case.proto, case.folder, case.sites, rows.data, None, case.options.threads, mask)
    if not capture.sites:
        reasons = "; ".join(sorted(set(capture.skipped.values()))[:2])
        return Checked(not_tried=(RULE.not_tried(f"no site fits the rows: {reasons}"),)), []
    few = np.arange(min(ROWS, len(rows.data)))
    most: dict[str, tuple[float, int]] = {}
    done = 0
    for chunk, batches in capture.batches(rows.data, few):
        for name, batch in batches.items():
            share = batch.map.mean((1, 2)) * batch.valid.sum(1, keepdims=True)
            share = np.where(_inner(batch.valid), share, 0.0)
            row, column = np.unravel_index(int(share.argmax()), share.shape)
            most[name] = max(most.get(name, (0.0, 0)), (float(share[row, column]), int(column)))
        done += len(chunk)
        budget("loud sites", done, len(few))
    found = [Loudness(name, *value) for name, value in most.items()]
    if len(found) < LEAST_SITES:
        return Checked(), found
    usual = float(np.median([one.loudness for one in found]))
    loud = [one for one in found if one.loudness > TIMES * usual]
    return Checked(
        tuple(
            RULE.finding(
                "note",
                one.site,
                f"column {one.column} draws {one.loudness:.1f} times an even share, other sites {usual:.1f} times",
            )
            for one in loud
        )
    ), found


def _inner(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The valid columns but the first and the last of each row."""
    inner = valid.copy()
    inner[:, 0] = False
    last = valid.shape[1] - 1 - valid[:, ::-1].argmax(1)
    inner[np.arange(len(valid)), last] = False
    return inner
