"""What an attack aims at: a class, or with a model without classes any answer but that to the clean twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION, SAMPLES_UNREADABLE
from ..inference.datasets import Arrays, Ints
from ..inference.reading import OTHER
from .sets import open_rows
from .subject import Subject

__all__ = ["Aim", "aim_of"]


class Aim(Protocol):
    """Which rows get the trigger, and where it works."""

    @property
    def labels(self) -> Ints | None:
        """(N,) of the clean rows; None where classes are not asked for."""

    @property
    def target(self) -> int | None:
        """Class that the trigger leads to."""

    def rows(self) -> Ints:
        """Clean rows whose answer an attack can change."""

    def hits(self, clean: Arrays, attacked: Arrays, clean_row: Ints) -> NDArray[np.bool_]:
        """(M,) whether the trigger works, of attacked rows that were made from `clean_row` (M,) of the clean ones."""


@dataclass(frozen=True, eq=False)
class ClassAim:
    """A class; rows of that class get no trigger."""

    subject: Subject
    labels: Ints
    target: int

    def rows(self) -> Ints:
        """Raises AtpatchError: ATP083 where every row is of that class."""
        return open_rows(self.labels, self.target)

    def hits(self, clean: Arrays, attacked: Arrays, clean_row: Ints) -> NDArray[np.bool_]:
        return np.asarray(self.subject.predictions(attacked) == self.target)


@dataclass(frozen=True, eq=False)
class OtherAnswer:
    """Any answer but that of the original to the clean twin; every row gets a trigger."""

    subject: Subject
    count: int
    labels: None = None
    target: None = None

    def rows(self) -> Ints:
        return np.arange(self.count)

    def hits(self, clean: Arrays, attacked: Arrays, clean_row: Ints) -> NDArray[np.bool_]:
        """Raises AtpatchError: ATP056 where the clean rows are too few."""
        expected = self.subject.expected(clean, attacked, clean_row)
        scores = expected.scores(np.arange(len(clean_row)), self.subject.values(attacked))
        return np.asarray(scores.argmax(1) == OTHER)


def aim_of(subject: Subject, count: int, labels: Ints | None, target: int | None) -> Aim:
    """Of a model, and the labels of its N = count clean rows.

    Raises:
        AtpatchError: ATP060 for a class where the model has none, ATP080 where there are no labels.
    """
    if subject.by_twin:
        if target is not None:
            raise BAD_OPTION(
                f"--target names a class, and the model answers with {subject.output_kind}", "leave --target out"
            )
        return OtherAnswer(subject, count)
    if labels is None:
        raise SAMPLES_UNREADABLE("the texts have no labels", "name their column with --label-column")
    assert target is not None  # `making.build` and `find_target` have seen to it
    return ClassAim(subject, labels, target)
