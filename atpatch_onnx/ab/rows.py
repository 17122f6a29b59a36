"""Reading a decision log line by line: rotated and compressed files, torn and broken lines. The fields are described in `serve.log`."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rewriters.regular import is_regular

from ..errors import LOG_UNREADABLE
from ..serve.log import SCHEMA

__all__ = ["ARMS", "Decision", "Reading", "Switch", "log_files", "read_rows"]

ARMS = ("original", "patched")
MODES = ("shadow", "ab", "patched", "original")
_LAST_MOMENT = 253_402_300_799.0  # the end of the year 9999, past which the standard library knows no date
_LONGEST_LINE = 64 << 20
"""Bytes; a file without line ends is no log and must not be read into memory whole."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One answered request. Lists hold one entry a sample; fields are those of the log."""

    unix: float
    experiment: str
    revision: int
    salt: str
    mode: str
    weight: float
    id: str
    unit: str
    unit_given: bool
    assigned: str | None
    arm: str
    fallback: str | None
    batch: int
    original: Sequence[int] | None
    patched: Sequence[int] | None
    flagged: Sequence[bool] | None
    shadow: str | None
    agree: Sequence[bool] | None
    difference: Sequence[float] | None
    latency_original: float | None
    latency_patched: float | None
    latency_total: float


@dataclass(frozen=True, slots=True)
class Switch:
    """The kill switch moved."""

    experiment: str
    on: bool


@dataclass
class Reading:
    """What reading met; filled while `read_rows` runs.

    Attributes:
        lines: read, blank ones left out.
        bad: lines passed over because they are no rows.
        torn: last lines cut short by a crash, or files whose compressed end is missing.
        skipped: rows of events that the analysis has no use for.
        first_bad: where the first bad line is and what is wrong with it.
    """

    files: tuple[Path, ...] = ()
    lines: int = 0
    bad: int = 0
    torn: int = 0
    skipped: int = 0
    first_bad: str | None = None

    def reject(self, path: Path, number: int, reason: str) -> None:
        self.bad += 1
        if self.first_bad is None:
            self.first_bad = f"{path.name}:{number}: {reason}"


def log_files(path: str | os.PathLike[str], rotated: bool = True) -> tuple[Path, ...]:
    """A log and what was rotated away from it, oldest first: `FILE.N[.gz]`, …, `FILE.1[.gz]`, `FILE`.

    Raises:
        AtpatchError: ATP087 where there is none of them.
    """
    path = Path(path)
    older: list[tuple[int, Path]] = []
    if rotated and os.path.isdir(path.parent):
        pattern = re.compile(re.escape(path.name) + r"\.(\d+)(\.gz)?")
        older = [(int(match[1]), file) for file in path.parent.iterdir() if (match := pattern.fullmatch(file.name)) and is_regular(file)]
    files = [file for _, file in sorted(older, key=lambda entry: -entry[0])]
    if is_regular(path):
        files.append(path)
    if not files:
        raise LOG_UNREADABLE(f"there is no log {path}")
    return tuple(files)


def read_rows(files: Sequence[Path], reading: Reading) -> Iterator[Decision | Switch]:
    """The rows that an analysis needs, in the order of the files; everything else is counted in `reading`.

    Raises:
        AtpatchError: ATP087 where a file cannot be read or holds no lines.
    """
    for path in files:
        try:
            # By content, not by name: rotation tools differ in what they call a compressed file.
            with path.open("rb") as probe:
                compressed = probe.read(2) == b"\x1f\x8b"
            with gzip.open(path, "rb") if compressed else path.open("rb") as file:
                yield from _rows(file, path, reading)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            reading.torn += 1
        except OSError as error:
            raise LOG_UNREADABLE(f"the log {path} cannot be read: {error.strerror or error}") from error


def _rows(file: BinaryIO | gzip.GzipFile, path: Path, reading: Reading) -> Iterator[Decision | Switch]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        whole = line.endswith(b"\n")
        if len(line) >= _LONGEST_LINE and not whole:
            raise LOG_UNREADABLE(f"{path} has no line ends, so it is no log of decisions")
        if not line.strip():
            continue
        reading.lines += 1
        try:
            row = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError):
            if whole:
                reading.reject(path, number, "not JSON")
            else:
                reading.torn += 1
            continue
        try:
            event = _event(row)
        except KeyError as error:
            reading.reject(path, number, f"field {error} is missing")
        except (TypeError, ValueError, OverflowError) as error:
            reading.reject(path, number, str(error))
        else:
            if event is None:
                reading.skipped += 1
            else:
                yield event


def _event(row: Any) -> Decision | Switch | None:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if row["schema"] != SCHEMA:
        raise ValueError(f"schema {row['schema']!r}, where this version reads {SCHEMA}")
    if row["event"] == "switch":
        return Switch(_text(row, "experiment"), bool(row["on"]))
    return _decision(row) if row["event"] == "decision" else None


def _decision(row: dict[str, Any]) -> Decision:
    batch = _whole(row, "batch")
    prediction, latency = row["prediction"], row["latency_ms"]
    if not isinstance(prediction, dict) or not isinstance(latency, dict):
        raise ValueError("prediction or latency_ms is not an object")
    if row["mode"] not in MODES:
        raise ValueError(f"unknown mode {row['mode']!r}")
    if row["arm"] not in ARMS or row["assigned"] not in (*ARMS, None):
        raise ValueError(f"unknown arm {row['arm']!r} or {row['assigned']!r}")
    return Decision(
        unix=_number(row["unix"], _LAST_MOMENT),
        experiment=_text(row, "experiment"),
        revision=_whole(row, "revision"),
        salt=_text(row, "salt"),
        mode=row["mode"],
        weight=_number(row["weight"], 1.0),
        id=_text(row, "id"),
        unit=_text(row, "unit"),
        unit_given=bool(row["unit_given"]),
        assigned=row["assigned"],
        arm=row["arm"],
        fallback=_maybe_text(row, "fallback"),
        batch=batch,
        original=_samples(prediction.get("original"), batch, int),
        patched=_samples(prediction.get("patched"), batch, int),
        flagged=_samples(row["flagged"], batch, bool),
        shadow=_maybe_text(row, "shadow"),
        agree=_samples(row["agree"], batch, bool),
        difference=_samples(row["difference"], batch, float),
        latency_original=None if latency["original"] is None else _number(latency["original"]),
        latency_patched=None if latency["patched"] is None else _number(latency["patched"]),
        latency_total=_number(latency["total"]),
    )


def _text(row: dict[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise ValueError(f"{name} is not text")
    text: str = row[name]
    # JSON can spell halves of characters, which no file could take.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _maybe_text(row: dict[str, Any], name: str) -> str | None:
    return None if row[name] is None else _text(row, name)


def _whole(row: dict[str, Any], name: str) -> int:
    value = row[name]
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is not a whole number above 0")
    return value


def _number(value: Any, most: float = sys.float_info.max) -> float:
    number = float(value)
    if not 0 <= number <= most:
        raise ValueError(f"{number:g} is not in [0, {most:g}]")
    return number


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _samples(value: Any, batch: int, kind: type) -> Any:
    """A list with one entry a sample, None where there is none."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != batch:
        raise ValueError(f"a list has not the {batch} entries of its batch")
    if any(type(entry) is not kind and not (kind is float and type(entry) is int) for entry in value):
        raise ValueError(f"a list holds something else than {kind.__name__}")
    if kind is float and not all(math.isfinite(entry) for entry in value):
        raise ValueError("a list holds a number that is not finite")
    return value
