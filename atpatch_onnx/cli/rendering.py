"""Output that all commands share: JSON on stdout, tables and errors on stderr.

Names that come from files are made printable, so that they cannot inject terminal codes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

__all__ = ["emit_json", "files_of_folder", "note", "printable", "show_error", "table"]

# Columns that people copy from: a name that is folded is another name.
_UNBROKEN = ("site", "softmax", "node")
# Wide enough for site ids in logs and pipes, where there is no terminal to ask.
_UNATTENDED_WIDTH = 160
# Of a column that may be folded, when another one takes the whole width.
_NARROWEST = 8
# An internal error has no error code; the user still gets one line and an exit code.
_INTERNAL_EXIT = 2


def emit_json(data: Any) -> None:
    """Print JSON, and nothing else, on stdout."""
    click.echo(json.dumps(data, indent=2))


def printable(text: Any) -> str:
    """`text` without control or escape characters, since names come from files that others wrote."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))


def note(text: str) -> None:
    """Print one line for people on stderr."""
    click.echo(printable(text), err=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stderr; without column names it has no header. Ids of sites are never folded: where the terminal
    is too narrow for one, the table is wider than the terminal.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(
        stderr=True,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if sys.stderr.isatty() else _UNATTENDED_WIDTH,
    )
    cells = [["–" if cell is None else printable(cell) for cell in row] for row in rows]
    grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=any(columns))
    needed = 0
    for place, column in enumerate(columns):
        if column.casefold() in _UNBROKEN:
            longest = max((len(row[place]) for row in cells), default=0)
            grid.add_column(column, no_wrap=True, min_width=longest)
            needed += longest
        else:
            grid.add_column(column, overflow="fold")
            needed += _NARROWEST
    console.width = max(console.width, needed + 2 * len(columns) + 2)
    for row in cells:
        grid.add_row(*row)
    console.print(grid)


def files_of_folder(done: Any) -> None:
    """Of a folder: which model files were changed, which were left and why, and what became of all other files.

    Args:
        done: what `patch` or `unpatch` did; nothing is printed for a file.
    """
    if not done.files:
        return
    rows = [(one.file, one.part, f"{one.nodes_before} nodes before, {one.nodes_after} after") for one in done.files]
    rows += [(one.file, one.part, f"left as it was: {one.why}") for one in done.left]
    table("model files", ("file", "part", ""), rows)
    note(f"other files: {done.linked} hard-linked, {done.copied} copied")


def show_error(error: Exception) -> int:
    """Print what is wrong and how to fix it, two lines on stderr; returns the exit code."""
    from ..errors import AtpatchError

    if isinstance(error, AtpatchError):
        note(f"error {error.code}: {error.what}")
        note(f"  fix: {error.fix}")
        return error.exit_code
    note(f"error: internal error, {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")
    note(
        "  fix: please report this with the output of 'atpatch-onnx --debug ...'; 'atpatch-onnx extract' makes a small"
        " model that you can send"
    )
    return _INTERNAL_EXIT
