"""Outcomes of the requests, which are known later and elsewhere: read from CSV or JSON lines, joined with the log by
request id or unit.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewriters.model.regular_files import check_source

from ..errors import OUTCOMES_UNREADABLE

__all__ = ["Outcome", "Outcomes", "load_outcomes"]

_KEYS = ("id", "unit")
_YES, _NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one request, or of a unit.

    Attributes:
        labels: right class of each sample; None where only `event` is known.
        event: whether what is counted (a complaint, a conversion, an override) happened; None where only the labels are
            known.
    """

    labels: Sequence[int] | None
    event: bool | None


@dataclass
class Outcomes:
    """Outcomes by request id or by unit.

    Attributes:
        key: "id" or "unit".
        joined: keys that a row of the log had; filled by `of`.
        misfits: rows with another number of labels than samples.
        duplicates: keys given more than once; the last one counts.
    """

    key: str
    found: Mapping[str, Outcome]
    duplicates: int = 0
    misfits: int = 0
    joined: set[str] = field(default_factory=set, repr=False)

    def of(self, id: str, unit: str, batch: int) -> Outcome | None:
        """The outcome of a row, None without one."""
        name = id if self.key == "id" else unit
        outcome = self.found.get(name)
        if outcome is None:
            return None
        self.joined.add(name)
        if outcome.labels is not None and len(outcome.labels) != batch:
            self.misfits += 1
            return None if outcome.event is None else Outcome(None, outcome.event)
        return outcome

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "given": len(self.found),
            "joined": len(self.joined),
            "misfits": self.misfits,
            "duplicates": self.duplicates,
        }


def load_outcomes(path: str | os.PathLike[str]) -> Outcomes:
    """Read outcomes: JSON lines if the first character is a brace, else CSV with a header.

    Fields: `id` or `unit` (as in the log), and `label` (whole number; in JSON a list for a request of several samples)
    or `outcome` (0 or 1) or both.

    Raises:
        AtpatchError: ATP088, with the line.
    """
    path = check_source(path)
    key, duplicates = "", 0
    found: dict[str, Outcome] = {}
    try:
        for number, row in _rows(path):
            key = key or next((name for name in _KEYS if row.get(name) not in (None, "")), "")
            name = row.get(key)
            if not key or name in (None, ""):
                raise OUTCOMES_UNREADABLE(f"{path.name}:{number}: no {key or 'id or unit'}")
            try:
                outcome = Outcome(_labels(row.get("label")), _event(row.get("outcome")))
            except ValueError as error:
                raise OUTCOMES_UNREADABLE(f"{path.name}:{number}: {error}") from error
            if outcome.labels is None and outcome.event is None:
                raise OUTCOMES_UNREADABLE(f"{path.name}:{number}: neither label nor outcome")
            duplicates += str(name) in found
            found[str(name)] = outcome
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OUTCOMES_UNREADABLE(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise OUTCOMES_UNREADABLE(f"{path} holds no outcome")
    return Outcomes(key, found, duplicates)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = file.read(1)
        file.seek(0)
        if start != "{":
            reader = csv.DictReader(file)
            yield from ((reader.line_num, row) for row in reader)
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise OUTCOMES_UNREADABLE(f"{path.name}:{number}: not JSON") from error
            if not isinstance(row, dict):
                raise OUTCOMES_UNREADABLE(f"{path.name}:{number}: not a JSON object")
            yield number, row


def _labels(value: Any) -> tuple[int, ...] | None:
    if value is None or value == "":
        return None
    entries = value if isinstance(value, list) else [value]
    try:
        return tuple(int(entry) if isinstance(entry, str) else _exact(entry) for entry in entries)
    except (TypeError, ValueError) as error:
        raise ValueError(f"label {value!r} is no whole number") from error


def _exact(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(value)
    return int(value)


def _event(value: Any) -> bool | None:
    if value is None or value == "":
        return None
    text = str(value).strip().lower()
    if text not in _YES | _NO:
        raise ValueError(f"outcome {value!r} is neither 0 nor 1")
    return text in _YES
