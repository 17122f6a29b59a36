"""Original and patched model, given in this order."""

from __future__ import annotations

import shlex

from ..errors import BAD_OPTION

__all__ = ["refuse_swapped"]


def refuse_swapped(names: tuple[str, str], stamped: tuple[bool, bool], command: str | None = None) -> None:
    """Refuse two models of which the first has the stamp of a patch, and the second has not.

    Args:
        names: of the two as they were given.
        stamped: whether they have the stamp.
        command: to be given with both in the right order. None: the fix names no command.

    Raises:
        AtpatchError: ATP060.
    """
    if stamped != (True, False):
        return
    first, second = map(shlex.quote, names)
    fix = f"give {second} as ORIGINAL and {first} as PATCHED" if command is None else f"{command} {second} {first}"
    raise BAD_OPTION(f"{first} is patched and {second} is not: the original comes first", fix)
