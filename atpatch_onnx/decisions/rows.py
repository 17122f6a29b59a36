"""Rows of a decision log as values.

What each field means is in the package's docstring; names that differ from the log are noted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

__all__ = [
    "ARMS",
    "MODES",
    "SCHEMA",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """What every row has."""

    unix: float
    experiment: str
    revision: int
    salt: str
    mode: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow(LogRow):
    """What rows of requests have."""

    id: str
    unit: str
    unit_given: bool
    assigned: str | None
    arm: str
    batch: int

    @property
    def identity(self) -> tuple[str, str, int, float, str, str, int]:
        """Alike for two copies of one row, and for no two requests: clients may use an id again, but not in the same
        microsecond.
        """
        return self.experiment, self.salt, self.revision, self.unix, self.id, self.unit, self.batch


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow(RequestRow):
    """One request that got an error, as the arm that should have answered failed and no other arm may answer for it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow(RequestRow):
    """One answered request. Lists hold one entry a sample.

    Attributes:
        original, patched: `prediction` of either arm.
        latency_original, latency_patched, latency_total: `latency_ms`, milliseconds.
        inputs: arrays by input name, `str` in those of dtype object; None where they are not logged. Not part of
            comparisons with `==`.
    """

    fallback: str | None
    original: Sequence[int | None] | None = None
    patched: Sequence[int | None] | None = None
    flagged: Sequence[bool | None] | None = None
    sites: Sequence[str] | None = None
    columns: Mapping[str, Sequence[Sequence[int]]] | None = None
    shadow: str | None = None
    agree: Sequence[bool | None] | None = None
    difference: Sequence[float | None] | None = None
    latency_original: float | None = None
    latency_patched: float | None = None
    latency_total: float = 0.0
    inputs: Mapping[str, NDArray[Any]] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow(LogRow):
    """What is served has changed. `models`: arm → {"path", "sha256"}."""

    reason: str
    models: Mapping[str, Mapping[str, str]]
    enabled: bool | None
    threshold: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRow(LogRow):
    """The kill switch moved."""

    on: bool
    source: str


def agreement(original: Sequence[int | None], patched: Sequence[int | None]) -> list[bool | None]:
    """Whether both arms predict the same class, one entry a sample; None where an arm predicts none.

    Both have the same length.
    """
    return [
        None if before is None or after is None else before == after
        for before, after in zip(original, patched, strict=True)
    ]
