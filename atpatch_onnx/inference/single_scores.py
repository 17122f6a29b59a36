"""Models with one score for each row, such as rerankers and reward models: above a threshold the row is of class 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION, NO_CLASS_SCORES, ROWS_MISFIT
from .datasets import DataSet, Ints
from .one_row import float_outputs
from .output_kinds import ScoreThreshold, parse_threshold
from .runner import Runner

__all__ = ["Threshold", "check_two_classes", "find_threshold"]

BATCH = 64


@dataclass(frozen=True)
class Threshold:
    """`Classes` of one score: class 1 above the threshold, else 0."""

    value: float

    def scores(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (B,) or (B, 1) → (B, 2): the threshold and the score, so that the arg max is whether it is above. NaN
        is below all.
        """
        flat = np.asarray(values, np.float32).reshape(len(values))
        flat = np.where(np.isnan(flat), np.float32(-np.inf), flat)
        return np.stack([np.full_like(flat, self.value), flat], 1)


def find_threshold(runner: Runner, data: DataSet, name: str | None, wanted: ScoreThreshold) -> tuple[str, Threshold]:
    """The output with one score for each row, and the threshold; a rank is among the model's scores of the clean rows.

    Args:
        data: clean rows, or a debugging set, see `_clean_rows`.

    Raises:
        AtpatchError: ATP052 (onnxruntime fails), ATP060 for a name that no output has, a text that is no threshold or a
            rank that no clean row has, ATP062 where no output is like that, ATP085 for labels and targets other than 0
            and 1.
    """
    output = _score_output(runner, data, name)
    check_two_classes(data)
    try:
        wanted = parse_threshold(wanted) if isinstance(wanted, str) else wanted
    except ValueError as error:
        raise BAD_OPTION(f"{wanted!r} is no score threshold", str(error)) from None
    if not isinstance(wanted, str):
        return output, Threshold(wanted)
    batches = runner.batches(data, _clean_rows(data), BATCH, [output])
    scores = np.concatenate([found[output][: len(rows)].reshape(len(rows)) for rows, found in batches])
    return output, Threshold(_score_at(wanted, np.sort(scores.astype(np.float32))))


def check_two_classes(data: DataSet) -> None:
    """Raises AtpatchError: ATP085 where labels or the target are other classes than those of a threshold."""
    found = [] if data.labels is None else np.unique(data.labels).tolist()
    found += [] if data.target is None else [data.target]
    if odd := [number for number in found if number not in (0, 1)]:
        raise ROWS_MISFIT(
            "with a score threshold a row is of class 1 (above it) or 0, so labels and targets of 0 and 1 were"
            f" expected, and one is {odd[0]}",
            "make two classes of the labels, such as 1 for each row that should be above the threshold",
        )


def _clean_rows(data: DataSet) -> Ints:
    """Of a debugging set the rows without a labeled column; of a flip set the rows that it was made from, which come
    first in their groups.
    """
    if data.columns is None or data.group is None:
        return data.unlabeled
    return np.sort(np.unique(data.group, return_index=True)[1])


def _score_at(rank: str, ordered: NDArray[np.float32]) -> float:
    """In the middle between the scores on either side of a rank, so that rounding moves no row across.

    Args:
        ordered: scores of the clean rows (N,), ascending.

    Raises:
        AtpatchError: ATP060 where no row is above, or scores are NaN.
    """
    count = len(ordered)
    top = float(rank[len("top") : -len("%")])
    place = math.floor(round((100 - top) * (count - 1) / 100, 9))
    if np.isnan(ordered[-1]):
        raise BAD_OPTION(f"{rank}: the model has no score (NaN) for {np.isnan(ordered).sum()} of {count} clean rows")
    lower = ordered[place]
    if lower == ordered[-1]:
        raise BAD_OPTION(
            f"{rank}: no clean row is above; {(ordered == lower).sum()} of {count} have the highest score, {lower:.6g}",
            "give a score or a wider rank, or more clean rows",
        )
    upper = ordered[place + 1]
    # A score may be infinite, such as a logarithm of 0; the threshold is a number.
    low, high = (np.nan_to_num(one).astype(np.float64) for one in (lower, upper))
    middle = np.float32((low + high) / 2)
    return float(middle if middle < upper else low)


def _score_output(runner: Runner, data: DataSet, name: str | None) -> str:
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
