"""The one reader of decision rows: takes what `writer.to_line` gives, and rows of older servers; refuses everything
else, with a reason.

Types are exact: no text or boolean for a number, no number for a boolean. Unknown fields and events are
skipped, as a newer server may write them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from .rows import EVENTS, LOGGED, SCHEMA, DecisionRow, LogRow, RequestRow, agreement
from .tensors import from_nested
from .values import Place, RowRefused, Rule, map_of, plain_object, short, text, whole

__all__ = ["NotJson", "RowRefused", "from_line"]

T = TypeVar("T")

_KINDS = {name: kind for kind, name in EVENTS.items()}


class NotJson(RowRefused):
    """A line is not JSON at all, such as one that a crash cut off."""


def from_line(line: str | bytes) -> LogRow | None:
    """One line of a log; None for an event that this version does not know.

    Raises:
        RowRefused: with a reason of one line.
    """
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except RowRefused:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson("not JSON") from error
    if not isinstance(row, dict):
        raise RowRefused("not a JSON object")
    schema = _get(row, "schema", "schema")
    if type(schema) is not int or schema != SCHEMA:
        raise RowRefused(f"schema is {short(schema)}, this version reads {SCHEMA}")
    event = _field(row, "event", text)
    return _row(event, row) if event in _KINDS else None


def _row(event: str, row: Mapping[str, Any]) -> LogRow:
    kind = _KINDS[event]
    _field(row, "time", text)  # the same as `unix`, for people
    batch = _field(row, "batch", whole) if issubclass(kind, RequestRow) else 0
    read: dict[str, Any] = {}
    for attribute, rule, of, name, place, added in _fields(event, batch):
        if not (added and place.label not in row):
            inside = _field(row, of, plain_object) if of else row
            read[attribute] = rule(_get(inside, name, place.label), place)
    if issubclass(kind, DecisionRow):
        decision = kind(**read, inputs=_inputs(row))
        _require_consistent(decision)
        return decision
    return kind(**read)


class _Field(NamedTuple):
    """Where a field is in the row, and how it is read: `of` is the object that holds it, "" for the row itself."""

    attribute: str
    rule: Rule[Any]
    of: str
    name: str
    place: Place
    added: bool


@functools.lru_cache(maxsize=64)  # most rows are of one event and of few batch sizes
def _fields(event: str, batch: int) -> tuple[_Field, ...]:
    found = []
    for attribute, logged in LOGGED[_KINDS[event]].items():
        of, _, name = logged.path.rpartition(".")
        found.append(_Field(attribute, logged.read, of, name, Place(logged.path, batch), logged.added))
    return tuple(found)


def _require_consistent(row: DecisionRow) -> None:
    """Fields that follow from others say the same as those."""
    if row.shadow != "compared" and (row.agree is not None or row.difference is not None):
        raise RowRefused(f"agree or difference is given, but shadow is {short(row.shadow)}")
    if row.agree is not None:
        known = row.original is not None and row.patched is not None
        if not known or row.agree != agreement(row.original or (), row.patched or ()):
            raise RowRefused("agree is not what the predictions say")


def _get(row: Mapping[str, Any], name: str, label: str) -> Any:
    if name not in row:
        raise RowRefused(f"field {label!r} is missing")
    return row[name]


def _field(row: Mapping[str, Any], name: str, read: Rule[T]) -> T:
    return read(_get(row, name, name), Place(name))


def _refuse_constant(word: str) -> Any:
    raise RowRefused(f"{word} is not JSON")


# Inputs, where they are logged.


def _inputs(row: Mapping[str, Any]) -> dict[str, NDArray[Any]] | None:
    if "inputs" not in row:
        return None
    inputs = _field(row, "inputs", plain_object)
    if "input_types" not in row:
        return {name: _tensor(value, name, None) for name, value in inputs.items()}
    types = _field(row, "input_types", map_of(text))
    if set(types) != set(inputs):
        raise RowRefused("input_types does not name the inputs")
    return {name: _tensor(value, name, types[name]) for name, value in inputs.items()}


def _tensor(value: Any, name: str, given: str | None) -> NDArray[Any]:
    try:
        return from_nested(value, given)
    except ValueError as error:
        raise RowRefused(f"input {short(name)} {error}") from error
