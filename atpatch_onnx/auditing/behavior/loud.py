"""Loud sites: attention sites where a single column draws far more in one row than in the others.

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
from ..finding import Checked, Finding
from ..rule import Rule
from .rows import Rows

__all__ = ["RULE", "Loudness", "check", "loudness_of", "noise_bound"]

RULE = Rule(
    "behavior",
    "AUD205",
    "a column that draws more attention in one row than the other rows lead to expect",
    "How loud the loudest column is differs from site to site and from row to row in good models, too. First and last"
    " tokens are left out, since they often draw much. A row is worth a look whose column is louder than the other rows"
    " of the same site lead to expect, beyond what noise of the same spread does in as many rows.",
)
ROWS = 64
LEAST_ROWS = 16
LEVEL = 0.01
"""Chance that noise alone is a finding, over all sites."""
DRAWS = 20_000


@dataclass(frozen=True)
class Loudness:
    """The loudest column of a site.

    Attributes:
        loudness: mean attention over heads and queries that it draws in its row, in multiples of an even share.
        excess: how far that is above the median of the rows, in multiples of what noise reaches (on a log scale).
    """

    site: str
    loudness: float
    column: int
    excess: float = 0.0

    def to_json(self) -> dict[str, Any]:
        numbers = {"loudness": round(self.loudness, 3), "column": self.column, "excess": round(self.excess, 3)}
        return {"site": self.site, **numbers}


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
    loudest: dict[str, list[NDArray[np.float64]]] = {}
    columns: dict[str, list[NDArray[np.int64]]] = {}
    done = 0
    for chunk, batches in capture.batches(rows.data, few):
        for name, batch in batches.items():
            share = batch.map.mean((1, 2)) * batch.valid.sum(1, keepdims=True)
            share = np.where(_inner(batch.valid), share, 0.0)
            loudest.setdefault(name, []).append(share.max(1))
            columns.setdefault(name, []).append(share.argmax(1))
        done += len(chunk)
        budget("loud sites", done, len(few))
    bound = noise_bound(len(few), len(loudest), case.options.seed) if len(few) >= LEAST_ROWS else None
    found = [
        loudness_of(name, np.concatenate(parts), np.concatenate(columns[name]), bound)
        for name, parts in loudest.items()
    ]
    said = tuple(_finding(one, len(few)) for one in found if one.excess > 1)
    few_rows = RULE.not_tried(f"{len(few)} rows are too few to say what is usual; {LEAST_ROWS} are needed")
    return Checked(said, () if bound is not None else (few_rows,)), found


def loudness_of(site: str, values: NDArray[np.float64], columns: NDArray[np.int64], bound: float | None) -> Loudness:
    """A site's loudest column.

    Args:
        values: (N,) the loudest column of each row.
        columns: (N,) where it is.
        bound: of noise; None for too few rows.
    """
    loudest, seen = int(values.argmax()), np.log(values[values > 0])
    excess = 0.0
    if bound is not None and len(seen) >= LEAST_ROWS:
        excess = float((seen.max() - np.median(seen)) / (bound * _spread(seen)))
    return Loudness(site, float(values[loudest]), int(columns[loudest]), excess)


def _finding(one: Loudness, rows: int) -> Finding:
    why = (
        f"column {one.column} draws {one.loudness:.1f} times an even share in one row: {one.excess:.1f} times as far"
        f" above the usual as noise reaches in {rows} rows"
    )
    return RULE.finding("note", one.site, why)


def noise_bound(rows: int, sites: int, seed: int) -> float:
    """How many spreads above the median the largest of normal noise is, at the level `LEVEL` over all sites.

    Medians and spreads are those of each draw, as for the rows themselves.
    """
    noise = np.random.default_rng(seed).normal(size=(DRAWS, rows))
    largest = (noise.max(1) - np.median(noise, 1)) / _spread(noise)
    return float(np.quantile(largest, (1 - LEVEL) ** (1 / sites)))


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., N) → (...): the median distance from the median; the mean one where most of the N values are equal."""
    away = np.abs(values - np.median(values, -1, keepdims=True))
    middle, mean = np.median(away, -1), away.mean(-1)
    return np.where(middle == 0, np.where(mean == 0, 1.0, mean), middle)


def _inner(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The valid columns but the first and the last of each row."""
    inner = valid.copy()
    inner[:, 0] = False
    last = valid.shape[1] - 1 - valid[:, ::-1].argmax(1)
    inner[np.arange(len(valid)), last] = False
    return inner
