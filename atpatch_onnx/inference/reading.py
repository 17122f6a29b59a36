"""From the outputs of a run to classes, in two steps that all models share.

1. A `Reader` takes what counts off one output: the scores of the next token, the embedding of a text.
2. `Classes` makes scores of classes of these values. A model without classes gets two: `EXPECTED` where a row is
   answered as the original answers its clean twin, `OTHER` for every other answer. So what stops an attack is judged
   and compared in one way, whatever a model answers.

Shape letters: N rows of a set, M clean rows, B rows of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .datasets import DataSet, Ints

__all__ = ["EXPECTED", "OTHER", "Classes", "Expected", "Reader", "Twins", "low_and_median"]

OTHER, EXPECTED = 0, 1
LOW = 0.05
"""Quantile of the likeness of answers that is reported next to the median."""


class Reader(Protocol):
    """Reads one output of a run."""

    @property
    def output(self) -> str:
        """Its name."""

    @property
    def per_token(self) -> int:
        """Numbers that it holds for each token, where that may be many; else 0."""

    def read(self, values: NDArray[Any], feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """What counts of it (B, ...), given the inputs of the run."""


class Classes(Protocol):
    """Makes classes of what was read."""

    def scores(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float32]:
        """(B, C) of some rows of the data set; values: (B, ...)."""


class Expected(Classes, Protocol):
    """The two classes `OTHER` and `EXPECTED`."""

    def likeness(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float64]:
        """(B,): how near each answer is to the original's answer to the clean twin (a clean row is its own); 1: the
        same.
        """


@dataclass(frozen=True, eq=False)
class Twins:
    """Which clean row each row of a set belongs to.

    Attributes:
        clean: (N,) number of the clean twin among the M clean rows; -1 of none.
        own: (N,) whether the row is that clean row itself.
    """

    clean: Ints
    own: NDArray[np.bool_]

    @classmethod
    def clean_set(cls, count: int) -> Twins:
        """Of the clean rows themselves."""
        return cls(np.arange(count), np.ones(count, bool))

    @classmethod
    def triggered_set(cls, clean_row: Ints) -> Twins:
        """Of triggered rows (N,) in a set of their own."""
        return cls(clean_row, np.zeros(len(clean_row), bool))

    @classmethod
    def debugging_set(cls, data: DataSet) -> tuple[Twins, Ints]:
        """Of a set with clean and anomalous rows, and the places (M,) of the clean ones in it."""
        assert data.columns is not None and data.pair is not None
        own = np.asarray(~data.columns.any(1))
        clean = np.flatnonzero(own)
        number = np.full(len(data), -1, np.int64)
        number[clean] = np.arange(len(clean))
        return cls(np.where(own, number, np.where(data.pair >= 0, number[data.pair], -1)), own), clean


def low_and_median(likeness: NDArray[np.float64]) -> tuple[float, float]:
    """Of the rows (N,) where it is known, see `Expected.likeness`; one or more are."""
    low, median = np.nanquantile(likeness, (LOW, 0.5)).tolist()
    return low, median
