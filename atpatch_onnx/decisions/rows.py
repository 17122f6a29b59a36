"""Rows of a decision log as values, and how each field is written and read: a new field is declared here, once.

What each field means is in the package's docstring; names that differ from the log are noted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, get_type_hints

from numpy.typing import NDArray

from .values import (
    Logged,
    finite,
    from_zero,
    list_of,
    map_of,
    moment,
    one_of,
    or_none,
    per_sample,
    share,
    size,
    text,
    truth,
    whole,
)

__all__ = [
    "ARMS",
    "EVENTS",
    "LOGGED",
    "MODES",
    "SCHEMA",
    "CalibrationRow",
    "DecisionRow",
    "FailureRow",
    "LogRow",
    "RequestRow",
    "RevisionRow",
    "SwitchRow",
    "agreement",
]

SCHEMA = 1
ARMS = ("original", "patched")
MODES = ("shadow", "ab", "patched", "original")

_CLASSES = or_none(per_sample(or_none(from_zero)))
_TRUTHS = or_none(per_sample(or_none(truth)))
_ALARMS = or_none(per_sample(truth))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """What every row has."""

    unix: Annotated[float, Logged(moment)]
    experiment: Annotated[str, Logged(text)]
    revision: Annotated[int, Logged(whole)]
    salt: Annotated[str, Logged(text)]
    mode: Annotated[str, Logged(one_of(MODES))]
    weight: Annotated[float, Logged(share)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow(LogRow):
    """What rows of requests have."""

    id: Annotated[str, Logged(text)]
    unit: Annotated[str, Logged(text)]
    unit_given: Annotated[bool, Logged(truth)]
    assigned: Annotated[str | None, Logged(or_none(one_of(ARMS)))]
    arm: Annotated[str, Logged(one_of(ARMS))]
    batch: Annotated[int, Logged(whole)]

    @property
    def identity(self) -> tuple[str, str, int, float, str, str, int]:
        """Alike for two copies of one row, and for no two requests: clients may use an id again, but not in the same
        microsecond.
        """
        return self.experiment, self.salt, self.revision, self.unix, self.id, self.unit, self.batch


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow(RequestRow):
    """One request that got an error, as the arm that should have answered failed or raised an alarm, and no other arm
    may answer for it.
    """

    reason: Annotated[str, Logged(text)]
    alarms: Annotated[Sequence[bool] | None, Logged(_ALARMS, added=True)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow(RequestRow):
    """One answered request. Lists hold one entry a sample.

    Attributes:
        original, patched: `prediction` of either arm.
        latency_original, latency_patched, latency_total: `latency_ms`, milliseconds.
        inputs: arrays by input name, `str` in those of dtype object; None where they are not logged. Not part of
            comparisons with `==`.
    """

    fallback: Annotated[str | None, Logged(or_none(text))]
    original: Annotated[Sequence[int | None] | None, Logged(_CLASSES, "prediction.original")] = None
    patched: Annotated[Sequence[int | None] | None, Logged(_CLASSES, "prediction.patched")] = None
    flagged: Annotated[Sequence[bool | None] | None, Logged(_TRUTHS)] = None
    sites: Annotated[Sequence[str] | None, Logged(or_none(list_of(text)))] = None
    columns: Annotated[
        Mapping[str, Sequence[Sequence[int]]] | None, Logged(or_none(map_of(per_sample(list_of(from_zero)))))
    ] = None
    alarms: Annotated[Sequence[bool] | None, Logged(_ALARMS, added=True)] = None
    shadow: Annotated[str | None, Logged(or_none(text))] = None
    agree: Annotated[Sequence[bool | None] | None, Logged(_TRUTHS)] = None
    difference: Annotated[Sequence[float | None] | None, Logged(or_none(per_sample(or_none(size))))] = None
    latency_original: Annotated[float | None, Logged(or_none(size), "latency_ms.original")] = None
    latency_patched: Annotated[float | None, Logged(or_none(size), "latency_ms.patched")] = None
    latency_total: Annotated[float, Logged(size, "latency_ms.total")] = 0.0
    inputs: Mapping[str, NDArray[Any]] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow(LogRow):
    """What is served has changed. `models`: arm → {"path", "sha256"}."""

    reason: Annotated[str, Logged(text)]
    models: Annotated[Mapping[str, Mapping[str, str]], Logged(map_of(map_of(text)))]
    enabled: Annotated[bool | None, Logged(or_none(truth))]
    threshold: Annotated[float | None, Logged(or_none(finite))]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRow(LogRow):
    """The kill switch moved."""

    on: Annotated[bool, Logged(truth)]
    source: Annotated[str, Logged(text)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRow(LogRow):
    """The calibration on live requests has come to another state."""

    state: Annotated[str, Logged(text)]
    rows: Annotated[int, Logged(from_zero)]
    wanted: Annotated[int, Logged(whole)]
    reason: Annotated[str | None, Logged(or_none(text))]
    hotfix: Annotated[str | None, Logged(or_none(text))]


EVENTS: Mapping[type[LogRow], str] = {
    DecisionRow: "decision",
    FailureRow: "failure",
    RevisionRow: "revision",
    SwitchRow: "switch",
    CalibrationRow: "calibration",
}


def _logged(kind: type[LogRow]) -> Mapping[str, Logged]:
    """See `LOGGED`."""
    hints = get_type_hints(kind, include_extras=True)
    marks = {one.name: getattr(hints[one.name], "__metadata__", ()) for one in fields(kind)}
    found = {name: mark for name, given in marks.items() for mark in given if isinstance(mark, Logged)}
    order = list(found)
    if issubclass(kind, RequestRow):  # `batch` comes behind the reason that is the row's own first field
        order.remove("batch")
        order.insert(order.index("arm") + 2, "batch")
    return {name: replace(found[name], path=found[name].path or name) for name in order}


LOGGED: Mapping[type[LogRow], Mapping[str, Logged]] = {kind: _logged(kind) for kind in EVENTS}
"""Of every row: attribute → how it is logged, in the order of the field reference."""


def agreement(original: Sequence[int | None], patched: Sequence[int | None]) -> list[bool | None]:
    """Whether both arms predict the same class, one entry a sample; None where an arm predicts none.

    Both have the same length.
    """
    return [
        None if before is None or after is None else before == after
        for before, after in zip(original, patched, strict=True)
    ]
