"""Rows for a fit from a decision log that `serve --log-inputs` wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...decisions import DecisionRow, Reading, log_files, read_rows
from ...errors import LOG_UNREADABLE
from .collector import Collector

__all__ = ["MOST_ROWS", "collect_log"]

MOST_ROWS = 5000
"""Of a longer log, requests at even distances are read."""


def collect_log(path: str | os.PathLike[str], *, rotated: bool = True) -> Collector:
    """The inputs of answered requests without an alarm: those with one look like attacks. No client has a limited
    share: whoever gives a log has chosen it.

    Args:
        path: file that `serve` writes; rotated and compressed parts of it are read as well.
        rotated: whether to read these.

    Raises:
        AtpatchError: ATP087 where the log cannot be read or holds no inputs.
    """
    logged = sum(row.batch for row in _logged(path, rotated))
    if not logged:
        raise LOG_UNREADABLE(f"{path} holds no inputs", "log them with 'serve --log-inputs'")
    collector = Collector(min(logged, MOST_ROWS), per_client=False)
    step = -(-logged // MOST_ROWS)
    for number, row in enumerate(_logged(path, rotated)):
        if number % step == 0 and row.inputs is not None:
            collector.offer(row.inputs, row.unit if row.unit_given else None)
    return collector


def _logged(path: str | os.PathLike[str], rotated: bool) -> Iterator[DecisionRow]:
    for row in read_rows(log_files(path, rotated), Reading()):
        if isinstance(row, DecisionRow) and row.inputs and not any(row.alarms or ()):
            yield row
