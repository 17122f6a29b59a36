"""The one writer of decision rows: a row in, a line of strict JSON out. `reader.from_line` reads it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from numpy.typing import NDArray

from .rows import EVENTS, LOGGED, SCHEMA, DecisionRow, LogRow
from .tensors import to_nested, type_name

__all__ = ["to_json", "to_line"]


def to_line(row: LogRow) -> str:
    """A row as one line of JSON, without its end. Never a bare NaN or Infinity.

    Raises:
        ValueError: a field outside of `inputs` is not finite.
    """
    return json.dumps(to_json(row), separators=(",", ":"), allow_nan=False)


def to_json(row: LogRow) -> dict[str, Any]:
    """A row as plain data, in the order of the field reference."""
    plain: dict[str, Any] = {"schema": SCHEMA, "event": EVENTS[type(row)], "time": _time(row.unix)}
    for name, logged in LOGGED[type(row)].items():
        of, _, key = logged.path.rpartition(".")
        (plain.setdefault(of, {}) if of else plain)[key] = _plain(getattr(row, name))
    return plain | _inputs(row.inputs) if isinstance(row, DecisionRow) and row.inputs is not None else plain


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    return {key: _plain(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value


def _inputs(inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {
        "inputs": {name: to_nested(array) for name, array in inputs.items()},
        "input_types": {name: type_name(array) for name, array in inputs.items()},
    }
