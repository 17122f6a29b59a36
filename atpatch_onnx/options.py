"""Options of a function as one frozen dataclass, which the API, the work behind it and the command line share.

A function takes `**options: Unpack[Keywords]`, a TypedDict next to the dataclass, and makes the dataclass of them. So
type checkers and editors know every keyword. An option is written once in each of the two, and explained once, under
"Attributes:" in the docstring of the dataclass; the command line makes its options and their help from that.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, TypeVar, get_args

__all__ = ["explanations", "option"]

T = TypeVar("T")


def option(
    default: T,
    *,
    choices: Any = (),
    at_least: float | None = None,
    at_most: float | None = None,
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> T:
    """A field of a dataclass of options, with what the command line has to know beside its type.

    Args:
        choices: words that it may be, or a Literal of them.
        at_least, at_most: smallest and largest number.
        metavar: placeholder for the value in the help.
        parse: makes the value of the text; a ValueError says what to give instead.
    """
    about = {
        "choices": get_args(choices) or tuple(choices),
        "range": (at_least, at_most),
        "metavar": metavar,
        "parse": parse,
    }
    return field(default=default, metadata=about)


def explanations(options: type) -> dict[str, str]:
    """Field → its lines under "Attributes:" in the docstring; empty under `python -OO`, which keeps no docstrings."""
    names = {one.name for one in fields(options)}
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    section = inspect.cleandoc(options.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    for line in section.splitlines():
        start = re.match(r" {4}(\w+): (.*)", line)
        if start and start[1] in names:
            lines = found.setdefault(start[1], [])
        lines.append(start[2] if start and start[1] in names else line.strip())
    return {name: " ".join(lines) for name, lines in found.items()}
