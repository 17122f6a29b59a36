"""Reports in files: one HTML page, or Markdown."""

from __future__ import annotations

import os
import re
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
    parts = [f"# {_plain(comparison.verdict())}", _plain(session_line(comparison)) + "."]
    for table in tables_of(comparison):
        parts += [
            f"## {_plain(table.title[0].upper() + table.title[1:])}",
            *([_plain(table.note)] if table.note else []),
            "\n".join(_lines(table)),
        ]
        parts += [f"*{_plain(note)}*" for note in table.notes]
    return "\n\n".join(parts) + "\n"


def _lines(table: Table) -> Iterator[str]:
    yield _line(table.columns)
    yield "|" + "---|" * len(table.columns)
    for row in table.rows:
        yield _line(["–" if cell is None else cell for cell in row])


def _line(cells: object) -> str:
    assert isinstance(cells, (list, tuple))
    return "| " + " | ".join(_plain(str(cell)).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Words of tables and names of files make no HTML, links or code."""
    return re.sub(r"[\\<\[`]", r"\\\g<0>", text.replace("\n", " "))
