"""Models with one score for each row, such as rerankers and reward models: above a threshold the row is of class 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import NO_CLASS_SCORES
from .datasets import DataSet, Ints
from .one_row import float_outputs
from .runner import Runner

__all__ = ["Threshold", "score_output"]


@dataclass(frozen=True)
class Threshold:
    """`Classes` of one score: class 1 above the threshold, else 0."""

    value: float

    def scores(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (B,) or (B, 1) → (B, 2): the threshold and the score, so that the arg max is whether it is above."""
        flat = np.asarray(values, np.float32).reshape(len(values))
        return np.stack([np.full_like(flat, self.value), flat], 1)


def score_output(runner: Runner, data: DataSet, name: str | None) -> str:
    """The output with the scores: the one named, else the first float output with one number for each row.

    Raises:
        AtpatchError: ATP060 for a name that no output has, ATP062 where no output is like that.
    """
    for output, array in float_outputs(runner, data, name).items():
        if array.ndim in (1, 2) and array[0].size == 1:
            return output
    raise NO_CLASS_SCORES(
        "no output holds one score for each row, and --score-threshold is given",
        "leave --score-threshold out, or name the output with --output-name",
    )
