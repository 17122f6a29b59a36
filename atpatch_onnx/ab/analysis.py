"""From a decision log to verdicts: `analyze_log` (extra `report`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..decisions import DecisionRow, LogRow, Reading, RequestRow, SwitchRow, log_files, read_rows
from ..errors import LOG_UNREADABLE
from .conclusions import conclude
from .outcomes import Outcomes, load_outcomes
from .results import Analysis, Revision
from .tally import RevisionTally

__all__ = ["Analysis", "Revision", "analyze_log"]


def analyze_log(
    logs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    outcomes: str | os.PathLike[str] | Outcomes | None = None,
    *,
    experiment: str | None = None,
    rotated: bool = True,
) -> Analysis:
    """Read decision logs once and compare the arms, revision by revision.

    Memory grows with the number of given units and by some hundred bytes a request, not with the size of the logs. A
    decision that is in the files twice counts once: a log may have been copied, or given under two names.

    Args:
        logs: file that `serve` writes, or those of several servers of one experiment.
        rotated: read `FILE.1`, `FILE.2.gz`, … before each of them.
        outcomes: what is known of the requests later, see `load_outcomes`.
        experiment: leave others out.

    Returns:
        figures, intervals and verdicts of every revision.

    Raises:
        AtpatchError: ATP087 where a log cannot be read or none holds a decision, ATP088 for the outcomes, ATP051
            without scipy.
    """
    known = outcomes if isinstance(outcomes, Outcomes) or outcomes is None else load_outcomes(outcomes)
    paths = [logs] if isinstance(logs, (str, os.PathLike)) else list(dict.fromkeys(logs))
    groups = [log_files(path, rotated) for path in paths]
    reading = Reading(tuple(dict.fromkeys(file for group in groups for file in group)))
    tallies: dict[tuple[str, int], RevisionTally] = {}
    for group in groups:
        _tally(read_rows(group, reading), known, experiment, tallies)
    if not tallies:
        first = f"; {reading.first_bad}" if reading.first_bad else ""
        wanted = f" of experiment {experiment!r}" if experiment else ""
        names = ", ".join(Path(path).name for path in paths)
        raise LOG_UNREADABLE(f"{names} holds no decision{wanted} in {reading.lines} lines{first}")
    return Analysis(reading, known, tuple(conclude(tallies[key]) for key in sorted(tallies)))


def _tally(
    rows: Iterator[LogRow],
    outcomes: Outcomes | None,
    experiment: str | None,
    tallies: dict[tuple[str, int], RevisionTally],
) -> None:
    """Count the rows of one server, whose kill switch is its own."""
    switched: dict[str, bool] = {}
    killed: dict[str, bool] = {}
    for row in rows:
        if experiment is not None and row.experiment != experiment:
            continue
        if isinstance(row, SwitchRow):
            switched[row.experiment] = row.on
        if not isinstance(row, RequestRow):
            continue
        # The row of the switch may have been rotated away, but the answers show its state as well.
        off = isinstance(row, DecisionRow) and row.fallback == "killed"
        if off or (isinstance(row, DecisionRow) and row.assigned == "patched"):
            killed[row.experiment] = off
        paused = off or switched.get(row.experiment, killed.get(row.experiment, False))
        key = (row.experiment, row.revision)
        tally = tallies.get(key) or tallies.setdefault(key, RevisionTally(*key))
        tally.add(row, outcomes.of(row.id, row.unit, row.batch) if outcomes else None, paused)
