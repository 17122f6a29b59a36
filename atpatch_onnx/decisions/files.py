"""The files of a decision log: rotated and compressed ones, torn and broken lines, rows that are there twice."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rewriters.model.regular_files import is_regular

from ..errors import LOG_UNREADABLE
from .reader import NotJson, RowRefused, from_line
from .rows import LogRow, RequestRow

__all__ = ["Reading", "last_revision", "log_files", "read_rows"]

_FIRST_BLOCK = 1 << 16
_LONGEST_LINE = 1 << 30
"""Bytes.

Rows with logged inputs are as long as requests may be; a line that is no JSON object is never read as a whole.
"""
_MOST_LATE = 10_000
"""Rows of an old revision that may come after the row that begins a new one; a server never has so many runs open."""
_NO_REVISION = 2**62
_MOST_REASONS = 20
"""Different reasons that are kept; they may quote what a file holds."""
_OTHER = "other reasons"


@dataclass
class Reading:
    """What the log files held; filled while `read_rows` runs.

    Attributes:
        lines: read, blank ones left out.
        bad: lines skipped because they are no rows.
        refused: why, and how many.
        torn: last lines that a crash cut off, or compressed files whose end is missing.
        skipped: rows of events that this version does not know.
        duplicates: decisions that had been read before, and were skipped.
        first_bad: where the first bad line is and what is wrong with it.
    """

    files: tuple[Path, ...] = ()
    lines: int = 0
    bad: int = 0
    torn: int = 0
    skipped: int = 0
    duplicates: int = 0
    first_bad: str | None = None
    refused: Counter[str] = field(default_factory=Counter)
    _seen: set[int] = field(default_factory=set, repr=False)
    """Hashes of 64 bits: among ten million rows the chance that any two of them are equal is 3 in a million."""

    def reject(self, path: Path, number: int, reason: str) -> None:
        self.bad += 1
        self.refused[reason if reason in self.refused or len(self.refused) < _MOST_REASONS else _OTHER] += 1
        if self.first_bad is None:
            self.first_bad = f"{path.name}:{number}: {reason}"

    def is_new(self, row: RequestRow) -> bool:
        """Whether this row has not been read before; counted where it has."""
        name = hash(row.identity)
        known = name in self._seen
        self.duplicates += known
        self._seen.add(name)
        return not known


def log_files(path: str | os.PathLike[str], rotated: bool = True) -> tuple[Path, ...]:
    """A log and what was rotated away from it, oldest first: `FILE.N[.gz]`, …, `FILE.1[.gz]`, `FILE`.

    Raises:
        AtpatchError: ATP087 where there is none of them.
    """
    files = _existing_files(Path(path), rotated)
    if not files:
        raise LOG_UNREADABLE(f"there is no log {path}")
    return files


def _existing_files(path: Path, rotated: bool = True) -> tuple[Path, ...]:
    older: list[tuple[int, Path]] = []
    if rotated and os.path.isdir(path.parent):
        pattern = re.compile(re.escape(path.name) + r"\.(\d+)(\.gz)?")
        older = [
            (int(match[1]), file)
            for file in path.parent.iterdir()
            if (match := pattern.fullmatch(file.name)) and is_regular(file)
        ]
    files = [file for _, file in sorted(older, key=lambda entry: -entry[0])]
    if is_regular(path):
        files.append(path)
    return tuple(files)


def read_rows(files: Sequence[Path], reading: Reading) -> Iterator[LogRow]:
    """All rows in the order of the files, each decision once; everything else is counted in `reading`.

    Raises:
        AtpatchError: ATP087 where a file cannot be read.
    """
    for path in files:
        try:
            with _opened(path) as file:
                yield from _rows(file, path, reading)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            reading.torn += 1
        except OSError as error:
            raise LOG_UNREADABLE(f"the log {path} cannot be read: {error.strerror or error}") from error


def last_revision(path: Path) -> int:
    """The newest revision in a log and its rotated files, 0 where there is none.

    1. Any JSON object with a revision counts, even one that `from_line` refuses: what matters is that no number is
       used twice.
    2. A shadow run that ends after a change is logged with the revision it began in, so the last row need not have the
       newest one: what counts is the largest number back to the row that began a revision.
    """
    try:
        files = _existing_files(path)
    except OSError:
        return 0
    for file in reversed(files):
        try:
            found = _newest(_lines_from_end(file))
        except (OSError, EOFError, zlib.error):  # torn or unreadable: an older file may have one
            continue
        if found:
            return found
    return 0


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    # By content, not by name: rotation tools differ in what they call a compressed file.
    with path.open("rb") as probe:
        compressed = probe.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _rows(file: BinaryIO | gzip.GzipFile, path: Path, reading: Reading) -> Iterator[LogRow]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        reading.lines += 1
        try:
            row = from_line(line)
        except RowRefused as error:
            if isinstance(error, NotJson) and not line.endswith(b"\n"):
                reading.torn += 1
            else:
                reading.reject(path, number, str(error))
            continue
        if row is None:
            reading.skipped += 1
        elif not isinstance(row, RequestRow) or reading.is_new(row):
            yield row


def _lines(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    """Lines with their ends; of those that are no JSON object, and of endless ones, the beginning."""
    while line := file.readline(_FIRST_BLOCK):
        if not line.endswith(b"\n") and line.lstrip()[:1] == b"{":
            line += file.readline(_LONGEST_LINE)
        if len(line) >= _FIRST_BLOCK and not line.endswith(b"\n"):
            while (rest := file.readline(_FIRST_BLOCK)) and not rest.endswith(b"\n"):
                pass
            line += rest[-1:]
        yield line


def _lines_from_end(path: Path) -> Iterator[bytes]:
    """Last line first. Blocks double, so that a long line costs no more than its length."""
    with _opened(path) as file:
        if isinstance(file, gzip.GzipFile):
            yield from reversed(file.read().split(b"\n"))
            return
        position, block, tail = file.seek(0, os.SEEK_END), _FIRST_BLOCK, b""
        while position:
            step = min(block, position)
            position, block = position - step, 2 * block
            file.seek(position)
            tail, *lines = (file.read(step) + tail).split(b"\n")
            yield from reversed(lines)
        yield tail


def _newest(lines: Iterator[bytes]) -> int:
    newest = seen = 0
    for line in lines:
        number, begins = _revision(line)
        newest, seen = max(newest, number), seen + (number > 0)
        if begins or seen == _MOST_LATE:
            break
    return newest


def _revision(line: bytes) -> tuple[int, bool]:
    """The revision of the object on this line, 0 for none, and whether it is the row that begins this revision."""
    try:
        row = json.loads(line)
        value = row["revision"]
        number = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else 0
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0, False
    return (number, row.get("event") == "revision") if 0 < number < _NO_REVISION else (0, False)
