"""Values of options that click has no type for."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["Doses", "Size"]


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
