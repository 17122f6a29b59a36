"""The one writer of decision rows: a row in, a line of strict JSON out. `reader.from_line` takes it apart again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from numpy.typing import NDArray

from .rows import SCHEMA, DecisionRow, FailureRow, LogRow, RequestRow, RevisionRow, SwitchRow
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
    match row:
        case DecisionRow():
            return _head("decision", row) | _decision(row)
        case FailureRow():
            return _head("failure", row) | _request(row) | {"reason": row.reason, "batch": row.batch}
        case RevisionRow():
            models = {arm: dict(model) for arm, model in row.models.items()}
            told = {"reason": row.reason, "models": models, "enabled": row.enabled, "threshold": row.threshold}
            return _head("revision", row) | told
        case SwitchRow():
            return _head("switch", row) | {"on": row.on, "source": row.source}
    raise TypeError(f"{type(row).__name__} is no event of the log")


def _head(event: str, row: LogRow) -> dict[str, Any]:
    time = datetime.fromtimestamp(row.unix, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "schema": SCHEMA,
        "event": event,
        "time": time,
        "unix": row.unix,
        "experiment": row.experiment,
        "revision": row.revision,
        "salt": row.salt,
        "mode": row.mode,
        "weight": row.weight,
    }


def _request(row: RequestRow) -> dict[str, Any]:
    return {"id": row.id, "unit": row.unit, "unit_given": row.unit_given, "assigned": row.assigned, "arm": row.arm}


def _decision(row: DecisionRow) -> dict[str, Any]:
    told = _request(row) | {
        "fallback": row.fallback,
        "batch": row.batch,
        "prediction": {"original": row.original, "patched": row.patched},
        "flagged": row.flagged,
        "sites": row.sites,
        "columns": None if row.columns is None else dict(row.columns),
        "shadow": row.shadow,
        "agree": row.agree,
        "difference": row.difference,
        "latency_ms": {"original": row.latency_original, "patched": row.latency_patched, "total": row.latency_total},
    }
    return told if row.inputs is None else told | _inputs(row.inputs)


def _inputs(inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {
        "inputs": {name: to_nested(array) for name, array in inputs.items()},
        "input_types": {name: type_name(array) for name, array in inputs.items()},
    }
