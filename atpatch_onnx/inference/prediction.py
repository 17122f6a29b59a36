"""Predictions and flags of the patched graph, as it will be served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.editing.patcher import patch
from rewriters.editing.row_claims import ShownRows
from rewriters.finding.key_value import HealingPlaces
from rewriters.names import FLAGGED
from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..errors import BAD_OPTION, DATA_MALFORMED, NO_CLASS_SCORES
from .datasets import DataSet, Ints
from .decoders import Answers
from .one_row import float_outputs
from .output_kinds import EMBEDDINGS
from .reading import Classes, Expected, Reader
from .runner import Runner

__all__ = [
    "Served",
    "answers_of",
    "batch_size",
    "by_row",
    "check_target",
    "class_scores",
    "find_prediction_output",
    "predict",
    "prediction_output",
]

BATCH = 64
CUT_BATCH = 16
"""Where rows are cut to the longest of their batch. Of 214 texts of up to 60 tokens a quarter more is padding in
batches of 64, a twelfth in these.
"""


def answers_of(runner: Runner, data: DataSet, tokens: Sequence[int] | None = None) -> Answers | None:
    """How a decoder's prediction is read, see `Runner.answering`; None where the graph is not run as a decoder: it has
    no caches that the data set lacks, and no answer tokens are given.

    Args:
        tokens: class → token; None: those of the data set, if it has any.

    Raises:
        AtpatchError: ATP060 for tokens that the graph does not score.
    """
    if tokens is None and data.answer_tokens is not None:
        tokens = data.answer_tokens.tolist()
    decoder = runner.decoder
    if not tokens:
        empty = decoder is not None and any(name not in data.inputs for name in decoder.caches)
        return Answers(decoder) if decoder is not None and (empty or decoder.has_encoder) else None
    if decoder is None:
        raise BAD_OPTION("answer tokens need a graph that takes input_ids (B, S) and scores tokens (B, S, V)")
    beyond = [token for token in tokens if token < 0 or token >= (decoder.vocabulary or token + 1)]
    if beyond or len(tokens) < 2 or len(set(tokens)) < len(tokens):
        raise BAD_OPTION(
            f"answer tokens {', '.join(map(str, tokens))}: two or more different ones, below {decoder.vocabulary}"
        )
    return Answers(decoder, tuple(tokens))


def prediction_output(runner: Runner, data: DataSet, name: str | None) -> str:
    """The output whose argmax is the prediction: the one named, else the first float output of rank 2 that is not
    called like an embedding.

    Raises:
        AtpatchError: ATP060 for a name that no output has, ATP062 where there are no class scores.
    """
    found = find_prediction_output(runner, data, name)
    if found is None:
        raise NO_CLASS_SCORES(
            "no output holds one row of class scores per sample",
            "name one with --output-name, the answers of a language model with --answer-tokens, or say what else the"
            " model answers with --output-kind",
        )
    return found


def find_prediction_output(runner: Runner, data: DataSet, name: str | None = None) -> str | None:
    """As `prediction_output`; None without class scores (samples, classes)."""
    found = float_outputs(runner, data, name, EMBEDDINGS).items()
    return next((output for output, array in found if array.ndim == 2 and array.shape[1] > 1), None)


def predict(runner: Runner, data: DataSet, rows: Ints, output: str) -> Ints:
    """Predictions (N,) int64 for all rows of the data set, -1 at rows not asked for.

    Raises:
        AtpatchError: ATP056 where the target of the data set is no class of the model.
    """
    scores = class_scores(runner, data, rows, output)
    check_target(data.target, scores.shape[1])
    return _arg_max(scores)


def check_target(target: int | None, count: int) -> None:
    """Raises AtpatchError: ATP056 for a class beyond `count`."""
    if target is not None and not 0 <= target < count:
        raise DATA_MALFORMED(
            f"the target of the data set is class {target}, and the model has {count} classes, counted from 0",
            "make the set for this model, with the class that the attack aims at as its 'target'",
        )


def class_scores(runner: Runner, data: DataSet, rows: Ints, output: str) -> NDArray[np.float32]:
    """The output (N, C) for all rows of the data set, nan at rows not asked for."""
    batches = runner.batches(data, rows, batch_size(runner), [output])
    return by_row(len(data), [(chunk, outputs[output]) for chunk, outputs in batches])


def batch_size(runner: Runner) -> int:
    """How many rows are predicted in one run."""
    return CUT_BATCH if runner.cuts else BATCH


def by_row(count: int, batches: Sequence[tuple[Ints, NDArray[Any]]]) -> NDArray[np.float32]:
    """(count, C): the rows of batches (B, C) at their places, nan at all others; C is 0 without a batch."""
    whole = np.full((count, batches[0][1].shape[1] if batches else 0), np.nan, np.float32)
    for chunk, found in batches:
        whole[chunk] = found[: len(chunk)]
    return whole


def _arg_max(scores: NDArray[np.float32]) -> Ints:
    """(N,), -1 at rows without a number."""
    # A column of -inf comes first: every number is greater, and in rows of nan it is the only value left.
    known = np.where(np.isnan(scores), -np.inf, scores)
    return np.asarray(np.column_stack([np.full(len(scores), -np.inf), known]).argmax(1) - 1, np.int64)


@dataclass(frozen=True, eq=False)
class _Likeness:
    """Likeness in the place of scores."""

    expected: Expected

    def scores(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float32]:
        """(B, 1)."""
        return self.expected.likeness(rows, values)[:, None].astype(np.float32)


class Served:
    """A session on the patched graph, with telemetry.

    Args:
        mask, reader, classes: see `Runner.without_padding`, `Runner.answering`, `Runner.classed`.
        places, rows: see `patch`.
        reported: so many columns of the flags are told; None: all. A healed merged decoder has each site twice, and the
            same flags at all of them.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        plan: PatchPlan,
        sites: Sequence[Site],
        output: str,
        threads: int | None = None,
        mask: str | None = None,
        reader: Reader | None = None,
        places: HealingPlaces | None = None,
        classes: Classes | None = None,
        *,
        rows: ShownRows | None = None,
        reported: int | None = None,
    ) -> None:
        patched = patch(model, replace(plan, telemetry=True, controls="optional"), sites, places, rows)
        runner = Runner(patched, folder, threads)
        self.runner = runner.without_padding(mask).answering(reader).classed(output, classes)
        self._output, self._sites = output, len(plan.sites) if reported is None else reported

    def run(self, data: DataSet, rows: Ints, threshold: float) -> tuple[Ints, NDArray[np.bool_]]:
        """Predictions (N,) and flags (N, sites); rows not asked for hold -1 and False."""
        scores, flags = self.scores(data, rows, threshold)
        return _arg_max(scores), flags

    def scores(self, data: DataSet, rows: Ints, threshold: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Class scores (N, C) and flags (N, sites); rows not asked for hold nan and False."""
        return self._run(self.runner, data, rows, threshold)

    def likeness(self, data: DataSet, rows: Ints, threshold: float, expected: Expected) -> NDArray[np.float64]:
        """How near answers are to those that are expected (N,); rows not asked for hold nan."""
        near = self.runner.classed(self._output, _Likeness(expected))
        return self._run(near, data, rows, threshold)[0][:, 0].astype(np.float64)

    def _run(
        self, runner: Runner, data: DataSet, rows: Ints, threshold: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        batches, flags = [], np.zeros((len(data), self._sites), bool)
        for chunk, outputs in runner.batches(data, rows, batch_size(runner), [self._output, FLAGGED], threshold):
            batches.append((chunk, outputs[self._output]))
            flags[chunk] = outputs[FLAGGED][: len(chunk), : self._sites]
        return by_row(len(data), batches), flags
