"""A table as plain text cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..statistics.proportions import Share

__all__ = ["Table", "percent"]


@dataclass(frozen=True)
class Table:
    """A title, names of columns, rows of cells; None is a cell without a value.

    Attributes:
        key: what it is, for links and styles.
        note: what the title does not say.
        meanings: a line for each row, "" for none.
        notes: remarks below.
    """

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    note: str = ""
    meanings: Sequence[str] = ()
    notes: Sequence[str] = ()


def percent(share: Share | float | None, interval: bool = True) -> str | None:
    """A share in per cent, with its interval and its counts."""
    if share is None or (isinstance(share, Share) and not share.count):
        return None
    if not isinstance(share, Share):
        return f"{share * 100:.2f} %"
    low, high = share.interval
    text = f"{share.value * 100:.2f} %"
    return f"{text} ({low * 100:.2f} to {high * 100:.2f}; {share.hits:,} of {share.count:,})" if interval else text
