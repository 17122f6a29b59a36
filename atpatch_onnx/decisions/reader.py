"""The one reader of decision rows: takes what `writer.to_line` gives, and rows of older servers; refuses everything
else, with a reason.

Types are exact: no text or boolean for a number, no number for a boolean. Fields and events that are not known are
passed over, as a newer server may write them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from numpy.typing import NDArray

from .rows import ARMS, MODES, SCHEMA, DecisionRow, FailureRow, LogRow, RevisionRow, SwitchRow, agreement
from .tensors import from_nested

__all__ = ["NotJson", "RowRefused", "from_line"]

T = TypeVar("T")
_Read = Callable[[Any, str], T]

_FIRST_MOMENT, _LAST_MOMENT = -62_135_596_800.0, 253_402_300_799.0
"""Years 1 and 9999: all that the standard library knows a date for."""
_LARGEST_WHOLE = 2**63 - 1
_SHOWN = 40


class RowRefused(ValueError):
    """A line is no row of the log: which field, what it holds and what was expected."""


class NotJson(RowRefused):
    """A line is not JSON at all, as one that a crash cut short."""


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
        raise RowRefused(f"schema is {_short(schema)}, this version reads {SCHEMA}")
    read = {"decision": _decision, "failure": _failure, "revision": _revision, "switch": _switch}.get(
        _field(row, "event", _text)
    )
    return None if read is None else read(row)


def _decision(row: Mapping[str, Any]) -> DecisionRow:
    batch = _field(row, "batch", _whole)
    prediction, latency = _field(row, "prediction", _object), _field(row, "latency_ms", _object)
    per_sample = _of_batch(batch)
    read = DecisionRow(
        **_request(row),
        fallback=_field(row, "fallback", _or_none(_text)),
        original=_field(prediction, "original", _or_none(per_sample(_or_none(_class))), "prediction."),
        patched=_field(prediction, "patched", _or_none(per_sample(_or_none(_class))), "prediction."),
        flagged=_field(row, "flagged", _or_none(per_sample(_or_none(_truth)))),
        sites=_field(row, "sites", _or_none(_list_of(_text))),
        columns=_field(row, "columns", _or_none(_map_of(per_sample(_list_of(_class))))),
        shadow=_field(row, "shadow", _or_none(_text)),
        agree=_field(row, "agree", _or_none(per_sample(_or_none(_truth)))),
        difference=_field(row, "difference", _or_none(per_sample(_or_none(_size)))),
        latency_original=_field(latency, "original", _or_none(_size), "latency_ms."),
        latency_patched=_field(latency, "patched", _or_none(_size), "latency_ms."),
        latency_total=_field(latency, "total", _size, "latency_ms."),
        inputs=_inputs(row),
    )
    _require_consistent(read)
    return read


def _failure(row: Mapping[str, Any]) -> FailureRow:
    return FailureRow(**_request(row), reason=_field(row, "reason", _text))


def _request(row: Mapping[str, Any]) -> dict[str, Any]:
    return _head(row) | {
        "id": _field(row, "id", _text),
        "unit": _field(row, "unit", _text),
        "unit_given": _field(row, "unit_given", _truth),
        "assigned": _field(row, "assigned", _or_none(_one_of(ARMS))),
        "arm": _field(row, "arm", _one_of(ARMS)),
        "batch": _field(row, "batch", _whole),
    }


def _require_consistent(row: DecisionRow) -> None:
    """Fields that follow from others say the same as those."""
    if row.shadow != "compared" and (row.agree is not None or row.difference is not None):
        raise RowRefused(f"agree or difference is given, but shadow is {_short(row.shadow)}")
    if row.agree is not None:
        known = row.original is not None and row.patched is not None
        if not known or row.agree != agreement(row.original or (), row.patched or ()):
            raise RowRefused("agree is not what the predictions say")


def _revision(row: Mapping[str, Any]) -> RevisionRow:
    return RevisionRow(
        **_head(row),
        reason=_field(row, "reason", _text),
        models=_field(row, "models", _map_of(_map_of(_text))),
        enabled=_field(row, "enabled", _or_none(_truth)),
        threshold=_field(row, "threshold", _or_none(_number)),
    )


def _switch(row: Mapping[str, Any]) -> SwitchRow:
    return SwitchRow(**_head(row), on=_field(row, "on", _truth), source=_field(row, "source", _text))


def _head(row: Mapping[str, Any]) -> dict[str, Any]:
    _field(row, "time", _text)  # the same as `unix`, for people
    return {
        "unix": _field(row, "unix", _moment),
        "experiment": _field(row, "experiment", _text),
        "revision": _field(row, "revision", _whole),
        "salt": _field(row, "salt", _text),
        "mode": _field(row, "mode", _one_of(MODES)),
        "weight": _field(row, "weight", _share),
    }


# A reader of a value takes the value and the name of its field.


def _get(row: Mapping[str, Any], name: str, label: str) -> Any:
    if name not in row:
        raise RowRefused(f"field {label!r} is missing")
    return row[name]


def _field(row: Mapping[str, Any], name: str, read: _Read[T], of: str = "") -> T:
    """A field; `of`: name of the object that it is part of, with a dot, for the reason of a refusal."""
    return read(_get(row, name, of + name), of + name)


def _expected(what: str, value: Any, name: str) -> RowRefused:
    return RowRefused(f"{name} is {_short(value)}, not {what}")


def _short(value: Any) -> str:
    text = (
        json.dumps(value)
        if not isinstance(value, (dict, list))
        else "an object"
        if isinstance(value, dict)
        else "a list"
    )
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _text(value: Any, name: str) -> str:
    if type(value) is not str:
        raise _expected("text", value, name)
    return value


def _truth(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise _expected("true or false", value, name)
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise _expected("an object", value, name)
    return value


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or not 1 <= value <= _LARGEST_WHOLE:
        raise _expected("a whole number above 0", value, name)
    return value


def _class(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST_WHOLE:
        raise _expected("a whole number from 0 on", value, name)
    return value


def _number(value: Any, name: str) -> float:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _expected("a finite number", value, name)
    return number


def _size(value: Any, name: str) -> float:
    number = _number(value, name)
    if number < 0:
        raise _expected("a number from 0 on", value, name)
    return number


def _share(value: Any, name: str) -> float:
    number = _number(value, name)
    if not 0 <= number <= 1:
        raise _expected("a number from 0 to 1", value, name)
    return number


def _moment(value: Any, name: str) -> float:
    number = _number(value, name)
    if not _FIRST_MOMENT <= number <= _LAST_MOMENT:
        raise _expected("a moment between the years 1 and 9999", value, name)
    return number


def _one_of(allowed: tuple[str, ...]) -> _Read[str]:
    def read(value: Any, name: str) -> str:
        if type(value) is not str or value not in allowed:
            raise _expected(f"one of {', '.join(allowed)}", value, name)
        return value

    return read


def _or_none(read: _Read[T]) -> _Read[T | None]:
    return lambda value, name: None if value is None else read(value, name)


def _list_of(read: _Read[T], count: int | None = None) -> _Read[list[T]]:
    def read_all(value: Any, name: str) -> list[T]:
        if type(value) is not list:
            raise _expected("a list", value, name)
        if count is not None and len(value) != count:
            raise RowRefused(f"{name} has {len(value)} entries, not the {count} of its batch")
        return [read(entry, name) for entry in value]

    return read_all


def _of_batch(batch: int) -> Callable[[_Read[T]], _Read[list[T]]]:
    return lambda read: _list_of(read, batch)


def _map_of(read: _Read[T]) -> _Read[dict[str, T]]:
    return lambda value, name: {key: read(entry, name) for key, entry in _object(value, name).items()}


def _refuse_constant(word: str) -> Any:
    raise RowRefused(f"{word} is not JSON")


# Inputs, where they are logged.


def _inputs(row: Mapping[str, Any]) -> dict[str, NDArray[Any]] | None:
    if "inputs" not in row:
        return None
    inputs = _field(row, "inputs", _object)
    if "input_types" not in row:
        return {name: _tensor(value, name, None) for name, value in inputs.items()}
    types = _field(row, "input_types", _map_of(_text))
    if set(types) != set(inputs):
        raise RowRefused("input_types does not name the inputs")
    return {name: _tensor(value, name, types[name]) for name, value in inputs.items()}


def _tensor(value: Any, name: str, given: str | None) -> NDArray[Any]:
    try:
        return from_nested(value, given)
    except ValueError as error:
        raise RowRefused(f"input {_short(name)} {error}") from error
