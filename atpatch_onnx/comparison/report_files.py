"""Reports in files: one HTML page, or Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..errors import BAD_OPTION
from ..pages import save_page
from .result import Comparison
from .tables import Table, session_line, tables_of

__all__ = ["markdown", "report_format", "write_report"]

Format = Literal["html", "md"]


def report_format(path: str | os.PathLike[str]) -> Format:
    """By the file's suffix.

    Raises:
        AtpatchError: ATP060 for another one.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".html", ".htm"):
        return "html"
    if suffix in (".md", ".markdown"):
        return "md"
    raise BAD_OPTION(f"{os.fspath(path)} is neither .html nor .md", "name the report after its format")


def write_report(comparison: Comparison, path: Path, form: Format) -> Path:
    """Write one report.

    Raises:
        AtpatchError: ATP019 where it cannot be written, ATP051 without jinja2 or matplotlib (HTML).
    """
    if form == "md":
        return save_page(markdown(comparison), path)
    from .page import render_report

    return save_page(render_report(comparison), path)


def markdown(comparison: Comparison) -> str:
    """The verdict and all tables."""
    parts = [f"# {comparison.verdict()}", session_line(comparison) + "."]
    for table in tables_of(comparison):
        parts += [
            f"## {table.title[0].upper()}{table.title[1:]}",
            *([table.note] if table.note else []),
            "\n".join(_lines(table)),
        ]
        parts += [f"*{note}*" for note in table.notes]
    return "\n\n".join(parts) + "\n"


def _lines(table: Table) -> Iterator[str]:
    yield _line(table.columns)
    yield "|" + "---|" * len(table.columns)
    for row in table.rows:
        yield _line(["–" if cell is None else cell for cell in row])


def _line(cells: object) -> str:
    assert isinstance(cells, (list, tuple))
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
