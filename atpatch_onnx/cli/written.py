"""No command writes over a file that it was given to read, nor two results into one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Any

import click

__all__ = ["check_written", "with_checked_files"]

# Parameters of all commands that name a file to write. Any other value that is the path of a file is read.
WRITTEN = {
    *("output", "out_clean", "out_triggered", "out_flips", "save", "save_hotfix", "cut", "columns_template"),
    *("report", "reports", "html", "sarif", "log"),
}


def with_checked_files(command: click.Command) -> click.Command:
    """The command; it looks at its files before it does anything."""
    checked, run = copy(command), command.callback
    if isinstance(command, click.Group) and isinstance(checked, click.Group):
        checked.commands = {name: with_checked_files(one) for name, one in command.commands.items()}
    if run is None:
        return checked

    @wraps(run)
    def callback(*arguments: Any, **values: Any) -> Any:
        check_written(values)
        return run(*arguments, **values)

    checked.callback = callback
    return checked


def check_written(values: Mapping[str, Any]) -> None:
    """Raises OUTPUT_IS_INPUT, and BAD_OPTION where two parameters name one file to write.

    Args:
        values: parameter → value.
    """
    from ..errors import BAD_OPTION
    from ..paths import refuse_overwriting

    names = [name for name in values if name in WRITTEN and not (name == "output" and values.get("in_place"))]
    written = [path for name in names for path in _paths(values[name])]
    if len({os.path.realpath(path) for path in written}) < len(written):
        raise BAD_OPTION("two of the files to write are the same", "give each its own name")
    fix = None if "in_place" in values else "give the output another name"
    for source in (path for name in values if name not in WRITTEN for path in _paths(values[name])):
        if os.path.isfile(source):
            for destination in written:
                refuse_overwriting(Path(source), Path(destination), fix)


def _paths(value: Any) -> tuple[str, ...]:
    several = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(one for one in several if isinstance(one, str) and one)
