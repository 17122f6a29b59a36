"""Counting one revision of an experiment, row by row: everything that an analysis needs, and no row is kept.

There are two counts. By *assignment*: which arm was to answer, for the unpaired comparison; whether the other arm
answered instead does not matter there, or the comparison would choose its own units. By *pair*: requests that both
arms ran on, for the paired one.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..decisions import DecisionRow, FailureRow, RequestRow
from .outcomes import Outcome

__all__ = ["ArmTally", "Book", "PairTally", "RevisionTally"]


@dataclass
class Book:
    """Hits and samples by unit. Requests without a unit are units of their own: of them
    only how many of each kind there were is kept.

    Attributes:
        single: (hits, count) → requests without a unit.
        units: unit → [hits, count].
    """

    single: Counter[tuple[int, int]] = field(default_factory=Counter)
    units: dict[str, list[int]] = field(default_factory=dict)

    def add(self, unit: str | None, hits: int, count: int) -> bool:
        """Returns whether it is the first entry of its unit."""
        if unit is None:
            self.single[hits, count] += 1
            return True
        entry = self.units.get(unit)
        if entry is None:
            self.units[unit] = [hits, count]
            return True
        entry[0] += hits
        entry[1] += count
        return False

    def __len__(self) -> int:
        return self.single.total() + len(self.units)

    def kinds(self) -> Counter[tuple[int, int]]:
        """(hits, count) → units."""
        return self.single + Counter((hits, count) for hits, count in self.units.values())

    def with_missing(self, missing: Book, hit: bool) -> Book:
        """This and the samples of `missing`, none of them a hit or all."""
        both = Book(self.single.copy(), {unit: list(entry) for unit, entry in self.units.items()})
        for (_, count), requests in missing.single.items():
            both.single[count * hit, count] += requests
        for unit, (_, count) in missing.units.items():
            both.add(unit, count * hit, count)
        return both


@dataclass
class ArmTally:
    """Requests assigned to one arm.

    Attributes:
        fallback: requests that the other arm had to answer; `reasons` says why.
        failures: why requests got an error instead of an answer; with a label they are wrong in all their samples.
        outcome: requests with an outcome; hits are those where it happened.
        wrong: samples with a label; hits are wrong answers, one that names no class (NaN) among them.
        classes: predicted class of each unit's first sample.
    """

    requests: int = 0
    samples: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    fallback: Book = field(default_factory=Book)
    outcome: Book = field(default_factory=Book)
    wrong: Book = field(default_factory=Book)
    classes: Counter[int] = field(default_factory=Counter)

    def add(self, row: RequestRow, unit: str | None, outcome: Outcome | None) -> tuple[bool, bool]:
        """Returns whether this was a unit's first outcome and it happened, and the same for a wrong answer."""
        answers: Sequence[int | None] | None = [None] * row.batch
        fallback = None
        if isinstance(row, DecisionRow):
            answers, fallback = row.patched if row.arm == "patched" else row.original, row.fallback
        elif isinstance(row, FailureRow):
            self.failures[row.reason] += 1
        self.requests += 1
        self.samples += row.batch
        if self.fallback.add(unit, fallback is not None, 1) and answers and answers[0] is not None:
            self.classes[answers[0]] += 1
        if fallback is not None:
            self.reasons[fallback] += 1
        happened = erred = False
        if outcome is not None and outcome.event is not None:
            happened = self.outcome.add(unit, outcome.event, 1) and outcome.event
        if outcome is not None and outcome.labels is not None and answers is not None:
            misses = sum(answer != label for answer, label in zip(answers, outcome.labels, strict=True))
            erred = self.wrong.add(unit, misses, row.batch) and misses > 0
        return happened, erred


@dataclass
class PairTally:
    """Requests that both arms ran on.

    Attributes:
        states: why there was a pair, or none, by request.
        apart: samples; hits are those on which the arms disagree.
        missing: samples that should have been compared, and were not; no hits.
        first: units by their first pair, as independent draws: true for disagreement, None where it is
            missing.
        moves: (original's class, patched's class) → samples, disagreements only; `stayed` likewise by class.
        drift: class → sides of each unit's first move that touches it: true into the class, false out of it.
        table: samples by (original right, patched right).
        sides: each unit's first pair in which exactly one arm is right, true where it is the patched one.
        differences: largest difference of outputs, one a sample; `not_finite` counts those that are no finite number.
    """

    states: Counter[str] = field(default_factory=Counter)
    apart: Book = field(default_factory=Book)
    missing: Book = field(default_factory=Book)
    first: Counter[bool | None] = field(default_factory=Counter)
    moves: Counter[tuple[int, int]] = field(default_factory=Counter)
    stayed: Counter[int] = field(default_factory=Counter)
    drift: defaultdict[int, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("b")))
    table: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    sides: array[int] = field(default_factory=lambda: array("b"))
    differences: array[float] = field(default_factory=lambda: array("d"))
    not_finite: int = 0
    _units_seen: set[str] = field(default_factory=set)
    _seen: set[tuple[str, int | None]] = field(default_factory=set)
    """Units whose move that touches a class, or (None) whose pair with one right answer, has been counted."""

    def add(self, row: DecisionRow, unit: str | None, outcome: Outcome | None) -> None:
        if row.shadow is None:
            return
        self.states[row.shadow] += 1
        if row.shadow != "compared":
            self.missing.add(unit, 0, row.batch)
            self._count_first(unit, None)
            return
        if row.difference is not None:
            finite = [value for value in row.difference if value is not None]
            self.differences.extend(finite)
            self.not_finite += len(row.difference) - len(finite)
        if row.original is None or row.patched is None:
            return
        samples = list(zip(row.original, row.patched, strict=True))
        pairs = [(before, after) for before, after in samples if before is not None and after is not None]
        moved = [(before, after) for before, after in pairs if before != after]
        if pairs:
            self.apart.add(unit, len(moved), len(pairs))
        if len(pairs) < len(samples):
            self.missing.add(unit, 0, len(samples) - len(pairs))
        self._count_first(unit, None if None in samples[0] else samples[0][0] != samples[0][1])
        self.stayed.update(before for before, after in pairs if before == after)
        seen = self._seen if unit is not None else set()
        for before, after in moved:
            self.moves[before, after] += 1
            for touched, into in ((after, True), (before, False)):
                if self._is_first(seen, unit, touched):
                    self.drift[touched].append(into)
        if outcome is not None and outcome.labels is not None:
            for sample, label in zip(samples, outcome.labels, strict=True):
                if None in sample:
                    continue
                right = sample[0] == label, sample[1] == label
                self.table[right] += 1
                if right[0] != right[1] and self._is_first(seen, unit, None):
                    self.sides.append(right[1])

    def _count_first(self, unit: str | None, disagrees: bool | None) -> None:
        if unit not in self._units_seen:
            self.first[disagrees] += 1
        if unit is not None:
            self._units_seen.add(unit)

    @staticmethod
    def _is_first(seen: set[tuple[str, int | None]], unit: str | None, what: int | None) -> bool:
        known = (unit or "", what) in seen
        seen.add((unit or "", what))
        return not known


@dataclass
class RevisionTally:
    """One revision of one experiment.

    Attributes:
        outside: requests that are no part of the experiment, as the client named a version.
        paused: requests answered while the kill switch was on; they are in no comparison.
        flagged: samples that the patched arm ran on, hits are those flagged; `unjudged` are those it should have
            run on, without a result.
        alarms: samples whose alarm is known, hits are those that raise it; refused ones are among them.
        crossed: units that were assigned to both arms.
        events: sides of the units with the outcome, in order, judged by their first request that has one; `errors`
            likewise for wrong answers.
        minutes: minute → [samples, flagged, pairs, disagreements].
    """

    experiment: str
    revision: int
    mode: str = ""
    weight: float = 0.0
    start: float = float("inf")
    end: float = float("-inf")
    outside: int = 0
    paused: int = 0
    settings: set[tuple[str, str, float]] = field(default_factory=set)
    arms: dict[str, ArmTally] = field(default_factory=lambda: {"original": ArmTally(), "patched": ArmTally()})
    pairs: PairTally = field(default_factory=PairTally)
    flagged: Book = field(default_factory=Book)
    unjudged: Book = field(default_factory=Book)
    alarms: Book = field(default_factory=Book)
    crossed: set[str] = field(default_factory=set)
    events: array[int] = field(default_factory=lambda: array("b"))
    errors: array[int] = field(default_factory=lambda: array("b"))
    latency: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in ("original", "patched", "total")}
    )
    minutes: dict[int, list[int]] = field(default_factory=dict)

    def add(self, row: RequestRow, outcome: Outcome | None, paused: bool) -> None:
        self.mode, self.weight = row.mode, row.weight
        self.settings.add((row.mode, row.salt, row.weight))
        self.start, self.end = min(self.start, row.unix), max(self.end, row.unix)
        if isinstance(row, DecisionRow):
            self._watch(row)
        if paused:
            self.paused += 1
        elif row.assigned is None:
            self.outside += 1
        else:
            self._compare(row, row.assigned, outcome)

    def _watch(self, row: DecisionRow) -> None:
        """Latency, and flags and disagreements over time, of all requests that were answered."""
        for name, value in (
            ("original", row.latency_original),
            ("patched", row.latency_patched),
            ("total", row.latency_total),
        ):
            if value is not None:
                self.latency[name].append(value)
        minute = self.minutes.setdefault(int(row.unix // 60), [0, 0, 0, 0])
        for flag in row.flagged or ():
            minute[0] += flag is not None
            minute[1] += flag is True
        for agree in row.agree or ():
            minute[2] += agree is not None
            minute[3] += agree is False

    def _compare(self, row: RequestRow, assigned: str, outcome: Outcome | None) -> None:
        unit = row.unit if row.unit_given else None
        if unit is not None and unit in self.arms["original" if assigned == "patched" else "patched"].fallback.units:
            self.crossed.add(unit)
        if isinstance(row, DecisionRow):
            self._judge(row, assigned, unit)
            self.pairs.add(row, unit, outcome)
        elif assigned == "patched":
            self.unjudged.add(unit, 0, row.batch)
        if isinstance(row, (DecisionRow, FailureRow)) and row.alarms:
            self.alarms.add(unit, sum(row.alarms), len(row.alarms))
        happened, erred = self.arms[assigned].add(row, unit, outcome)
        if happened:
            self.events.append(assigned == "patched")
        if erred:
            self.errors.append(assigned == "patched")

    def _judge(self, row: DecisionRow, assigned: str, unit: str | None) -> None:
        if row.flagged is not None:
            unknown = sum(flag is None for flag in row.flagged)
            if unknown < row.batch:
                self.flagged.add(unit, sum(flag is True for flag in row.flagged), row.batch - unknown)
            if unknown:
                self.unjudged.add(unit, 0, unknown)
        elif row.shadow not in (None, "compared") or (assigned == "patched" and row.fallback not in (None, "absent")):
            self.unjudged.add(unit, 0, row.batch)
