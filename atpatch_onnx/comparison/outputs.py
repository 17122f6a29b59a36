"""What a comparison keeps of its runs: arrays of one graph over one data set, and what is known about the rows.

Shape letters: N rows, C classes, S sites with flags, K key columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION
from ..inference.datasets import DataSet, Ints

__all__ = ["Outputs", "Truth", "protected_values"]

MOST_GROUPS = 50
"""More values than this are no groups: with an age in days, everyone would be a group."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """One graph over one data set.

    Attributes:
        scores: class scores (N, C) as the graph gives them; None for a model without classes.
        flags: (N, S), None where it is not known what was flagged.
        columns: site id → flagged columns (N, K), in the order of `flags`.
        differences: output → (N, 3) against the original on the same rows: greatest and mean absolute difference,
            cosine.
        seconds: one figure a batch, graphs taking turns.
        classes: (C,) the class of each score where it is not its place: of a decoder, its token.
        answers: (N, T) tokens of a decoder's greedy answers, -1 behind their end.
        tokens_kept: (N,) of labels of tokens, share that the original gives the same tokens of the clean twin.
        cosines: (N,) of embeddings, with the original's embedding of the clean twin (a clean row is its own).
        likelihoods: (N, T) log-probabilities of the clean answers' tokens, nan behind their end.
        alarms: (N,), rows with an alarm; None of a graph without one.
    """

    scores: NDArray[np.float32] | None
    flags: NDArray[np.bool_] | None = None
    columns: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    differences: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    seconds: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    classes: Ints | None = None
    answers: Ints | None = None
    likelihoods: NDArray[np.float64] | None = None
    cosines: NDArray[np.float64] | None = None
    tokens_kept: NDArray[np.float64] | None = None
    alarms: NDArray[np.bool_] | None = None

    @property
    def by_twin(self) -> bool:
        """Whether the two classes are those of a model without classes of its own."""
        return self.cosines is not None or self.tokens_kept is not None

    @property
    def predictions(self) -> Ints:
        """(N,); only of a model with classes."""
        assert self.scores is not None
        places = np.asarray(self.scores.argmax(1), np.int64)
        return places if self.classes is None else self.classes[places]

    def places(self, classes: Ints) -> Ints:
        """Where the scores of classes are."""
        return classes if self.classes is None else np.asarray(np.searchsorted(self.classes, classes), np.int64)

    @property
    def flagged(self) -> NDArray[np.bool_] | None:
        """(N,), rows with a flag at any site."""
        return None if self.flags is None else np.asarray(self.flags.any(1))


@dataclass(frozen=True, eq=False)
class Truth:
    """What a data set says about its rows besides the inputs, as in `DataSet`.

    Attributes:
        count: N.
        digest: of the whole set.
        protected: (N,) values of the protected attribute, for group metrics.
    """

    count: int
    digest: str
    labels: Ints | None = None
    target: int | None = None
    clean_row: Ints | None = None
    group: Ints | None = None
    protected: NDArray[Any] | None = None
    dose: Ints | None = None
    form: NDArray[np.str_] | None = None
    answer: Ints | None = None

    @classmethod
    def of(cls, data: DataSet, group: str | Sequence[Any] | NDArray[Any] | None = None) -> Truth:
        """Raises AtpatchError: ATP060 where the protected attribute cannot be read."""
        protected = None if group is None else protected_values(data, group)
        kept = {
            name: getattr(data, name) for name in ("labels", "target", "clean_row", "group", "dose", "form", "answer")
        }
        return cls(len(data), data.digest, protected=protected, **kept)


def protected_values(data: DataSet, group: str | Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """(N,) values of a protected attribute.

    Args:
        group: the values themselves, or the name of an input (N,), or "INPUT:INDEX" for a place in the rows of an input
            (N, D).

    Raises:
        AtpatchError: ATP060 where there is no such input or place, or the values are too many to be groups.
    """
    if isinstance(group, str):
        name, _, index = group.rpartition(":") if group not in data.inputs else (group, "", "")
        if name not in data.inputs or (index and not index.isdecimal()):
            raise BAD_OPTION(
                f"{group!r} names no protected attribute", f"give INPUT:INDEX with one of {', '.join(data.inputs)}"
            )
        array = data.inputs[name].reshape(len(data), -1)
        place = int(index or 0)
        if place >= array.shape[1] or (not index and array.shape[1] > 1):
            raise BAD_OPTION(
                f"{group!r}: rows of {name!r} have {array.shape[1]} places", f"give {name}:INDEX, counted from 0"
            )
        values = array[:, place]
    else:
        values = np.asarray(group)
        if values.shape != (len(data),):
            raise BAD_OPTION(f"the protected attribute has shape {values.shape}, the data set {len(data)} rows")
    if not 2 <= (found := len(np.unique(values))) <= MOST_GROUPS:
        raise BAD_OPTION(
            f"the protected attribute has {found} different values", f"give one with 2 to {MOST_GROUPS}: bin it first"
        )
    return values
