"""Values of options that click has no type for."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["Bound", "Doses", "Size"]


class Bound(click.ParamType[Any]):
    """[NAME=]NUMBER; without a name it is the first of those that may be bounded."""

    name = "[NAME=]NUMBER"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, sign, number = str(value).rpartition("=")
        name = name if sign else self.names[0]
        if name not in self.names:
            self.fail(f"{name!r} cannot be bounded; name one of {', '.join(self.names)}", param, ctx)
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            self.fail(f"{number!r} is no number", param, ctx)
        return name, bound


class Size(click.ParamType[Any]):
    """HEIGHTxWIDTH in pixels, or one number for a square."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
            self.fail(f"{value!r} is not HEIGHTxWIDTH", param, ctx)
        return int(parts[0]), int(parts[-1])


# More do not fit into a text, and would take hours to put in.
MOST_COPIES = 1024


class Doses(click.ParamType[Any]):
    """Numbers of copies, separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and 0 < int(part) <= MOST_COPIES for part in parts):
            self.fail(f"{value!r} is not a list of numbers of copies up to {MOST_COPIES}, such as 1,2,4,8", param, ctx)
        return tuple(int(part) for part in parts)
