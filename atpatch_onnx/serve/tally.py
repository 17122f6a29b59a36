"""What the page shows: counts of the current revision, the last hour by minutes, recent latencies. Bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..decisions import DecisionRow, FailureRow
from .arms import ORIGINAL, PATCHED

__all__ = ["Minute", "Tally"]

_RECENT = 4096
_MINUTES = 60
_MOST_UNITS = 200_000
"""Further units are not remembered; this many are enough to check the split."""


@dataclass
class Minute:
    """One minute: samples that the patched arm looked at, flagged ones, disagreeing pairs out of pairs; samples whose
    alarm is known, and alarms, those of refused requests among them.
    """

    start: int
    judged: int = 0
    flagged: int = 0
    pairs: int = 0
    disagree: int = 0
    alarm_known: int = 0
    alarms: int = 0


@dataclass
class Tally:
    """Counts.

    Attributes:
        watched_class: class that is watched.
        answered: arm → requests that it answered.
        fallbacks, failures, shadow: reason or status → requests; failures got an error instead of an answer.
        judged, flagged, pairs, disagree, alarm_known, alarms: samples, as in `Minute`.
        missing: samples that should have been compared, and were not.
        moved: (class by the original, class by the patched arm) → pairs, of those that disagree.
        columns: (site, column) → times flagged.
        units: arm → pseudonyms that it was assigned, of the current revision.
        watched: arm → units whose first answer was the watched class.
        latencies: "original", "patched", "total" → milliseconds of recent requests.
        largest: largest difference of a pair so far.
    """

    watched_class: int | None = None
    revision: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    shadow: Counter[str] = field(default_factory=Counter)
    judged: int = 0
    flagged: int = 0
    pairs: int = 0
    disagree: int = 0
    alarm_known: int = 0
    alarms: int = 0
    missing: int = 0
    largest: float = 0.0
    moved: Counter[tuple[int, int]] = field(default_factory=Counter)
    columns: Counter[tuple[str, int]] = field(default_factory=Counter)
    units: dict[str, set[str]] = field(default_factory=dict)
    watched: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, deque[float]] = field(
        default_factory=lambda: {name: deque(maxlen=_RECENT) for name in (ORIGINAL, PATCHED, "total")}
    )
    minutes: deque[Minute] = field(default_factory=lambda: deque(maxlen=_MINUTES))

    def revise(self, revision: int) -> None:
        """Units and pairs of one revision say nothing about another; latencies, minutes and requests go on."""
        self.revision = revision
        self.judged = self.flagged = self.pairs = self.disagree = self.alarm_known = self.alarms = self.missing = 0
        self.largest = 0.0
        self.moved.clear()
        self.columns.clear()
        self.units = {ORIGINAL: set(), PATCHED: set()}
        self.watched.clear()

    def add(self, row: DecisionRow) -> None:
        """Count one decision."""
        self.answered[row.arm] += 1
        if row.fallback:
            self.fallbacks[row.fallback] += 1
        if row.shadow:
            self.shadow[row.shadow] += 1
        times = {ORIGINAL: row.latency_original, PATCHED: row.latency_patched, "total": row.latency_total}
        for name, milliseconds in times.items():
            if milliseconds is not None:
                self.latencies[name].append(milliseconds)
        for count in self._counts(row):
            for flag in row.flagged or ():
                count.judged += flag is not None
                count.flagged += flag is True
            for agree in row.agree or ():
                count.pairs += agree is not None
                count.disagree += agree is False
        if row.revision == self.revision:
            self._add_current(row)

    def fail(self, row: FailureRow) -> None:
        """Count one request that got an error; its unit was assigned all the same."""
        self.failures[row.reason] += 1
        self._counts(row)
        if row.mode == "ab" and row.assigned and row.revision == self.revision:
            self._count_unit(row.assigned, row.unit, ())

    def _counts(self, row: DecisionRow | FailureRow) -> tuple[Minute | Tally, ...]:
        """Where a row's samples count: in its minute, and in the current revision. Its alarms are counted here."""
        minute = self._minute(int(row.unix // 60) * 60)
        counts: tuple[Minute | Tally, ...] = (minute, self) if row.revision == self.revision else (minute,)
        for count in counts:
            for alarm in row.alarms or ():
                count.alarm_known += 1
                count.alarms += alarm
        return counts

    def _add_current(self, row: DecisionRow) -> None:
        given = row.patched if row.arm == PATCHED else row.original
        if row.mode == "ab" and row.assigned:
            self._count_unit(row.assigned, row.unit, given or ())
        if row.shadow not in (None, "compared"):
            self.missing += row.batch
        self.missing += sum(agree is None for agree in row.agree or ())
        self.largest = max([self.largest, *(value for value in row.difference or () if value is not None)])
        if row.agree is not None:
            for before, after in zip(row.original or (), row.patched or (), strict=True):
                if before is not None and after is not None and before != after:
                    self.moved[before, after] += 1
        for site, samples in (row.columns or {}).items():
            self.columns.update((site, column) for sample in samples for column in sample)

    def _count_unit(self, arm: str, unit: str, given: Sequence[int | None]) -> None:
        """Units count once, with what they got first: later answers depend on that one."""
        if unit not in self.units[arm] and sum(map(len, self.units.values())) < _MOST_UNITS:
            self.units[arm].add(unit)
            self.watched[arm] += self.watched_class in given

    def last_hour(self, now: float) -> list[Minute]:
        """The minutes with samples, of the 60 that end with the present one; `now` in seconds of the epoch."""
        first = int(now // 60) * 60 - 60 * (_MINUTES - 1)
        return [minute for minute in self.minutes if minute.start >= first]

    def percentiles(self, name: str, of: Sequence[float] = (50, 95, 99)) -> list[float] | None:
        """Milliseconds of recent requests, None without any."""
        recent = self.latencies[name]
        return np.percentile(np.array(recent), of).tolist() if recent else None

    def _minute(self, start: int) -> Minute:
        """A row of a shadow run may come a little later than its minute; it counts in the last one."""
        if not self.minutes or self.minutes[-1].start < start:
            self.minutes.append(Minute(start))
        return self.minutes[-1]
