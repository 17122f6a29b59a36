"""The decision log: rotated JSON lines, one object a line, written by a thread of its own. Field reference, schema 1.

Every row has
    schema      int, 1
    event       str: "decision" (one a request that was answered), "revision" (what is served has changed), "switch" (kill switch moved)
    time        str, RFC 3339 in UTC with microseconds; of a decision: when the request had been read
    unix        float, the same moment in seconds
    experiment  str
    revision    int ≥ 1; rises with every change of weight, controls or a model file, and goes on from the last row after a restart
    salt        str, 16 hex digits: digest of the salt, never the salt
    mode        str: "shadow", "ab", "patched", "original"
    weight      float in [0, 1]: share of units that go to the patched arm (ab; else 0 or 1: who should answer)

A "decision" row adds
    id          str, request id: the client's, else made up
    unit        str, 16 hex digits: keyed digest of salt and unit, never the raw unit; where no unit was given, of the request id
    unit_given  bool: false where the request id stood in for a unit (then no crossovers can be told)
    assigned    str | null: "original" or "patched" by mode and split; null where the client named a version, such rows are no part of the
                experiment
    arm         str, whose answer the client got: "original" or "patched"
    fallback    str | null, why `arm` is not the assigned one: "timeout", "error", "non_finite", "busy" (others hang), "killed", "absent"
    batch       int ≥ 1: samples in the request; lists below have one entry a sample, in order
    prediction  {"original": [int, …] | null, "patched": [int, …] | null}: argmax of the class scores; null where that arm did not run to
                its end or no output has class scores
    flagged     [bool, …] | null: samples that the patch flagged; null where the patched arm did not run or its graph has no masks
    sites       [str, …] | null: ids of the sites at which any sample was flagged
    columns     {site: [[int, …], …]} | null: per such site and sample the flagged key columns, at most 64 a sample
    shadow      str | null: null where no pair was due, else "compared", "dropped" (queue full), "timeout", "error", "non_finite"
    agree       [bool, …] | null: of "compared" rows with class scores: both arms predict the same
    difference  [float, …] | null: of "compared" rows: largest |original − patched| over all float outputs
    latency_ms  {"original": float | null, "patched": float | null, "total": float}: per arm from hand-over to result (waiting for a thread
                and for a batch included), total from request read to answer ready
    inputs      {name: nested list}, only with --log-inputs

A "revision" row adds `reason` (str), `models` ({arm: {"path", "sha256"}}), `enabled` (bool | null) and `threshold` (float | null), null
standing for "as in the file".
A "switch" row adds `on` (bool) and `source` ("admin", "file", "environment"; several joined by "+").
Readers skip events and fields that they do not know. A rotated log is `FILE.1` (youngest) to `FILE.N`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..errors import NOT_WRITABLE

__all__ = ["SCHEMA", "DecisionLog", "last_row", "moment"]

SCHEMA = 1


def moment(unix: float) -> dict[str, Any]:
    """The fields `time` and `unix`."""
    return {"time": datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"), "unix": round(unix, 6)}


class DecisionLog:
    """Takes rows on the event loop at the price of a queue, formats and writes them elsewhere.

    Args:
        path: file; None: rows are dropped.
        max_bytes, backups: a file that would grow past `max_bytes` becomes `FILE.1`; `backups` of them are kept.

    Raises:
        AtpatchError: ATP019 where the file cannot be written.
    """

    def __init__(self, path: Path | None, max_bytes: int = 100_000_000, backups: int = 5) -> None:
        self.failures = 0
        """Rows that could not be written (disk full); serving goes on."""
        self._listener: QueueListener | None = None
        if path is None:
            return
        try:
            handler = _Rows(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")
        except OSError as error:
            raise NOT_WRITABLE(f"the log {path} cannot be written: {error.strerror or error}") from error
        handler.owner = self
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._handler = _Plain(self._queue)
        self._listener = QueueListener(self._queue, handler)
        self._listener.start()

    def write(self, row: Mapping[str, Any]) -> None:
        """Queue one row; `row` must not be changed afterwards."""
        if self._listener is not None:
            self._handler.emit(logging.makeLogRecord({"msg": row}))

    def close(self) -> None:
        """Write what is queued, then close the file."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.stop()
            for handler in listener.handlers:
                handler.close()


class _Plain(QueueHandler):
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # formatting is the other thread's work


class _Rows(RotatingFileHandler):
    owner: DecisionLog

    def format(self, record: logging.LogRecord) -> str:
        # NaN is not JSON: a difference of non-finite outputs is never put into a row, so this only guards.
        return json.dumps(record.msg, separators=(",", ":"), allow_nan=False)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the standard library's name
        self.owner.failures += 1


def last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row of a log, None where there is none; a torn last line (a crash) is passed over."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 1_000_000))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("schema") == SCHEMA:
            return row
    return None
