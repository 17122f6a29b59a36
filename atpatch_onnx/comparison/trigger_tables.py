"""The tables of a comparison that list triggered rows by copies of the trigger, and by its form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .graph_runs import ORIGINAL
from .result import Comparison
from .table import Table, percent

__all__ = ["trigger_tables"]

TITLES = {"asr": "ASR", "asr_star": "ASR*", "flagged": "flagged"}


def trigger_tables(comparison: Comparison) -> Iterator[Table]:
    """One row for each number of copies, and for each form; nothing where the triggered set does not say."""
    yield from _table(comparison, "doses", "copies", "triggered rows by copies of the trigger")
    yield from _table(comparison, "forms", "form", "triggered rows by form of the trigger")


def _table(comparison: Comparison, key: Literal["doses", "forms"], first: str, title: str) -> Iterator[Table]:
    own = {name: getattr(figures, key) for name, figures in comparison.figures.items()}
    if not own[ORIGINAL]:
        return
    shown = [
        (name, figure)
        for figure in TITLES
        for name, shares in own.items()
        if any(figure in each for each in shares.values())
    ]
    rows = [(str(value), *(percent(own[name][value].get(figure)) for name, figure in shown)) for value in own[ORIGINAL]]
    yield Table(key, title, (first, *(f"{TITLES[figure]}, {name}" for name, figure in shown)), rows)
