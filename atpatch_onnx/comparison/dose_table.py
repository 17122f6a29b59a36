"""The table of a comparison that lists triggered rows by copies of the trigger."""

from __future__ import annotations

from collections.abc import Iterator

from .graph_runs import ORIGINAL
from .result import Comparison
from .table import Table, percent

__all__ = ["dose_table"]

TITLES = {"asr": "ASR", "asr_star": "ASR*", "flagged": "flagged"}


def dose_table(comparison: Comparison) -> Iterator[Table]:
    """One row for each number of copies; nothing where the triggered set does not say."""
    doses = comparison.figures[ORIGINAL].doses
    if not doses:
        return
    shown = [
        (name, key)
        for key in TITLES
        for name, figures in comparison.figures.items()
        if any(key in shares for shares in figures.doses.values())
    ]
    rows = [
        (str(copies), *(percent(comparison.figures[name].doses[copies].get(key)) for name, key in shown))
        for copies in doses
    ]
    titles = ("copies", *(f"{TITLES[key]}, {name}" for name, key in shown))
    yield Table("doses", "triggered rows by copies of the trigger", titles, rows)
