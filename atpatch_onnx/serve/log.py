"""The decision log's file: rotated, and written by its own thread. For the rows see `atpatch_onnx.decisions`."""

from __future__ import annotations

import logging
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rewriters.model.regular_files import is_regular

from ..decisions import LogRow, to_line
from ..errors import NOT_WRITABLE

__all__ = ["DecisionLog"]

_logger = logging.getLogger(__name__)


class DecisionLog:
    """Takes rows on the event loop and only queues them; a thread formats and writes them.

    Args:
        path: file; None: rows are dropped.
        max_bytes, backups: a file that would grow past `max_bytes` becomes `FILE.1`; `backups` of them are kept.
            A file that cannot be renamed grows on.

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
            handler.on_new_line = not _is_torn(path)
        except OSError as error:
            raise NOT_WRITABLE(f"the log {path} cannot be written: {error.strerror or error}") from error
        handler.owner = self
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._handler = _Plain(self._queue)
        self._listener = QueueListener(self._queue, handler)
        self._listener.start()

    def write(self, row: LogRow) -> None:
        """Queue one row; arrays in it must not be changed afterwards."""
        if self._listener is not None:
            self._handler.emit(logging.makeLogRecord({"msg": row}))

    def close(self) -> None:
        """Write what is queued, then close the file."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.stop()
            for handler in listener.handlers:
                with suppress(OSError):  # rows for which the disk had no room; they have been counted
                    handler.close()


class _Plain(QueueHandler):
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # formatting is the other thread's work


class _Rows(RotatingFileHandler):
    owner: DecisionLog
    on_new_line = True
    _stuck = False

    def emit(self, record: logging.LogRecord) -> None:
        failures = self.owner.failures
        try:
            # A row after half a row would be lost with it; an empty line does no harm.
            row: Any = record.msg
            record.msg = ("" if self.on_new_line else "\n") + to_line(row)
        except Exception:  # a row that cannot be formatted must not end the thread that writes
            return self.handleError(record)
        super().emit(record)
        self.on_new_line = self.owner.failures == failures

    def doRollover(self) -> None:  # noqa: N802  the standard library's name
        try:
            super().doRollover()
        # the folder does not allow renaming: a file that grows too large is better than lost rows
        except OSError as error:
            if not self._stuck:
                _logger.warning(
                    "the log %s cannot be rotated and grows on: %s", self.baseFilename, error.strerror or error
                )
            self._stuck = True
            self.stream = self.stream or self._open()

    def format(self, record: logging.LogRecord) -> str:
        return str(record.msg)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the standard library's name
        self.owner.failures += 1


def _is_torn(path: Path) -> bool:
    """Whether the last line of a file is incomplete, as after a crash; false where the file may not be read."""
    try:
        if not is_regular(path) or not path.stat().st_size:
            return False
        with path.open("rb") as file:
            file.seek(-1, 2)
            return file.read() != b"\n"
    except OSError:
        return False
