"""Models with one score for each row, such as rerankers and reward models: above a threshold the row is of class 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION, NO_CLASS_SCORES
from .datasets import DataSet, Ints
from .one_row import float_outputs
from .output_kinds import ScoreThreshold, parse_threshold
from .runner import Runner

__all__ = ["Threshold", "find_threshold"]

BATCH = 64


@dataclass(frozen=True)
class Threshold:
    """`Classes` of one score: class 1 above the threshold, else 0."""

    value: float

    def scores(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (B,) or (B, 1) → (B, 2): the threshold and the score, so that the arg max is whether it is above."""
        flat = np.asarray(values, np.float32).reshape(len(values))
        return np.stack([np.full_like(flat, self.value), flat], 1)


def find_threshold(runner: Runner, data: DataSet, name: str | None, wanted: ScoreThreshold) -> tuple[str, Threshold]:
    """The output with one score for each row, and the threshold; a rank is among the model's scores of the clean rows.

    Args:
        data: clean rows, or a debugging set: there, rows with a clean partner are not clean.

    Raises:
        AtpatchError: ATP052 (onnxruntime fails), ATP060 for a name that no output has or a text that is no threshold,
            ATP062 where no output is like that.
    """
    output = _score_output(runner, data, name)
    try:
        wanted = parse_threshold(wanted) if isinstance(wanted, str) else wanted
    except ValueError as error:
        raise BAD_OPTION(f"{wanted!r} is no score threshold", str(error)) from None
    if not isinstance(wanted, str):
        return output, Threshold(wanted)
    clean = np.arange(len(data)) if data.pair is None else np.flatnonzero(data.pair < 0)
    batches = runner.batches(data, clean, BATCH, [output])
    scores = np.concatenate([found[output][: len(rows)].reshape(len(rows)) for rows, found in batches])
    top = float(wanted[len("top") : -len("%")]) / 100
    return output, Threshold(float(np.quantile(scores.astype(np.float64), 1 - top)))


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
