"""Cells of the tables of RESULTS.md: shares, numbers and ratios over seeds, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .estimates import Estimate, of_numbers, of_shares
from .measures import Run, at, fits

__all__ = ["Evidence", "Row", "Table", "each", "number_of", "p_of", "plain_of", "ratios_of", "share_of"]

Evidence = Mapping[str, Any]
Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Cells as text."""

    head: Sequence[str]
    rows: Sequence[Row]


def ratios_of(found: Sequence[Run]) -> str:
    """Of several seeds the median, and the widest interval."""
    if not found:
        return "–"
    middle = float(np.median([one["ratio"] for one in found]))
    return f"{middle:.3f} ({min(one['low'] for one in found):.3f} to {max(one['high'] for one in found):.3f})"


def each(evidence: Evidence, step: str) -> Iterator[tuple[str, list[Run]]]:
    """Settings in which a step was done, as well as the step `fit`."""
    fitted = fits(evidence)
    for name, runs in fits(evidence, step=step).items():
        if name in fitted:
            yield name, list(runs.values())


def share_of(runs: Sequence[Run], *path: str) -> str:
    """A share over runs; of draws their range."""
    found = [share for run in runs if (share := at(run, path)).get("value") is not None]
    if not found:
        return "–"
    if "draws" in found[0]:
        return Estimate(found[0]["value"], found[0]["low"], found[0]["high"], 1).percent()
    estimate = of_shares(found)
    return "–" if estimate is None else estimate.percent()


def number_of(values: Sequence[float], digits: int) -> str:
    """The mean over runs with its interval; of one run, its value."""
    if not values:
        return "–"
    return of_numbers(values).plain(digits) if len(values) > 1 else f"{values[0]:.{digits}f}"


def plain_of(shares: Sequence[Run]) -> str:
    """A share over runs, as a number up to 1."""
    estimate = of_shares(shares)
    return "–" if estimate is None else estimate.plain(3)


def p_of(value: float) -> str:
    """A p-value."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
