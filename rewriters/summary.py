"""Results that show themselves in five lines at most, and in notebooks as a small table."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

__all__ = ["Summarized", "some"]

ROWS = 4
"""Below the name of the class."""
WIDTH = 100
"""Characters of a value; names in a graph may be of any length."""


class Summarized:
    """Gives `repr` and `_repr_html_` to what says its rows.

    Values may come from a stranger's file: they are cut, control characters (line ends too) are shown as escapes, and
    in a notebook they are text, never markup.
    """

    def summary(self) -> Iterable[tuple[str, str]]:
        """Label and value of each row, the most important first."""
        raise NotImplementedError

    def _shown(self) -> Iterator[tuple[str, str]]:
        for (label, value), _ in zip(self.summary(), range(ROWS), strict=False):
            text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in value[: WIDTH + 1])
            yield label, text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"

    def __repr__(self) -> str:
        rows = list(self._shown())
        width = max(len(label) for label, _ in rows)
        return "\n".join([type(self).__name__, *(f"  {label:{width}}  {value}" for label, value in rows)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for label, value in self._shown()
        )
        return f"<table><caption>{html.escape(type(self).__name__)}</caption>{rows}</table>"


def some(names: Iterable[str], most: int = 4) -> str:
    """How many there are, and the first of them: "12: a, b, c, d, …"."""
    listed = list(names)
    if not listed:
        return "none"
    return f"{len(listed)}: {', '.join(listed[:most])}{', …' if len(listed) > most else ''}"
