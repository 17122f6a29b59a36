"""How a value of the log is read: exact types, and a reason where it is refused.

No text or boolean for a number, no number for a boolean. A rule takes the value and its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = [
    "Logged",
    "Place",
    "RowRefused",
    "Rule",
    "finite",
    "from_zero",
    "list_of",
    "map_of",
    "moment",
    "one_of",
    "or_none",
    "per_sample",
    "plain_object",
    "share",
    "short",
    "size",
    "text",
    "truth",
    "whole",
]

T = TypeVar("T")

_FIRST_MOMENT, _LAST_MOMENT = -62_135_596_800.0, 253_402_300_799.0
"""Years 1 and 9999: all that the standard library knows a date for."""
_LARGEST_WHOLE = 2**63 - 1
_SHOWN = 40


class RowRefused(ValueError):
    """A line is no row of the log: which field, what it holds and what was expected."""


@dataclass(frozen=True)
class Place:
    """Name of a field, with the object that it is part of, and the samples of its request."""

    label: str
    batch: int = 0


Rule = Callable[[Any, Place], T]


@dataclass(frozen=True)
class Logged:
    """A field of the log.

    Attributes:
        read: the rule for its value.
        path: of names with dots between them; "" for the field's own name.
        added: after schema 1 was first written. Rows of older servers lack it, and it has its default then.
    """

    read: Rule[Any]
    path: str = ""
    added: bool = False


def expected(what: str, value: Any, at: Place) -> RowRefused:
    """The refusal of a value."""
    return RowRefused(f"{at.label} is {short(value)}, not {what}")


def short(value: Any) -> str:
    """A value in a message."""
    text = (
        json.dumps(value)
        if not isinstance(value, (dict, list))
        else "an object"
        if isinstance(value, dict)
        else "a list"
    )
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def text(value: Any, at: Place) -> str:
    """A string."""
    if type(value) is not str:
        raise expected("text", value, at)
    return value


def truth(value: Any, at: Place) -> bool:
    """A boolean."""
    if type(value) is not bool:
        raise expected("true or false", value, at)
    return value


def plain_object(value: Any, at: Place) -> dict[str, Any]:
    """An object."""
    if type(value) is not dict:
        raise expected("an object", value, at)
    return value


def whole(value: Any, at: Place) -> int:
    """A whole number above 0."""
    if type(value) is not int or not 1 <= value <= _LARGEST_WHOLE:
        raise expected("a whole number above 0", value, at)
    return value


def from_zero(value: Any, at: Place) -> int:
    """A whole number from 0 on."""
    if type(value) is not int or not 0 <= value <= _LARGEST_WHOLE:
        raise expected("a whole number from 0 on", value, at)
    return value


def finite(value: Any, at: Place) -> float:
    """A finite number."""
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise expected("a finite number", value, at)
    return number


def size(value: Any, at: Place) -> float:
    """A number from 0 on."""
    number = finite(value, at)
    if number < 0:
        raise expected("a number from 0 on", value, at)
    return number


def share(value: Any, at: Place) -> float:
    """A number from 0 to 1."""
    number = finite(value, at)
    if not 0 <= number <= 1:
        raise expected("a number from 0 to 1", value, at)
    return number


def moment(value: Any, at: Place) -> float:
    """Seconds since 1970 that the standard library knows a date for."""
    number = finite(value, at)
    if not _FIRST_MOMENT <= number <= _LAST_MOMENT:
        raise expected("a moment between the years 1 and 9999", value, at)
    return number


def one_of(allowed: tuple[str, ...]) -> Rule[str]:
    """One of these words."""

    def read(value: Any, at: Place) -> str:
        if type(value) is not str or value not in allowed:
            raise expected(f"one of {', '.join(allowed)}", value, at)
        return value

    return read


def or_none(read: Rule[T]) -> Rule[T | None]:
    """The same, or null."""
    return lambda value, at: None if value is None else read(value, at)


def list_of(read: Rule[T]) -> Rule[list[T]]:
    """A list of any length."""

    def read_all(value: Any, at: Place) -> list[T]:
        if type(value) is not list:
            raise expected("a list", value, at)
        return [read(entry, at) for entry in value]

    return read_all


def per_sample(read: Rule[T]) -> Rule[list[T]]:
    """A list with one entry for each sample of the request."""
    entries = list_of(read)

    def read_all(value: Any, at: Place) -> list[T]:
        if type(value) is list and len(value) != at.batch:
            raise RowRefused(f"{at.label} has {len(value)} entries, not the {at.batch} of its batch")
        return entries(value, at)

    return read_all


def map_of(read: Rule[T]) -> Rule[dict[str, T]]:
    """An object whose values are all of one kind."""
    return lambda value, at: {key: read(entry, at) for key, entry in plain_object(value, at).items()}
