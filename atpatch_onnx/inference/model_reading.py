"""How the answers of one model are read and judged: `Reading`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION, DATA_MALFORMED
from .datasets import DataSet
from .embeddings import Neighbors, embedding_reader
from .output_kinds import CLASSES, POOLS, TOKENS, ScoreThreshold
from .prediction import answers_of, prediction_output
from .reading import Classes, Expected, Reader, Twins
from .runner import Runner
from .single_scores import find_threshold
from .token_labels import NONE, TokenLabels, token_output

__all__ = ["Reading", "all_values", "find_reading"]


@dataclass(frozen=True)
class Reading:
    """How one model is read.

    Attributes:
        kind: one of `output_kinds.KINDS`.
        output: graph output that is judged.
        reader: takes what counts off it; None: the output as it is.
        fixed: makes classes of it without knowing the rows; None: the output has class scores, or `expected` is needed.
    """

    kind: str
    output: str
    reader: Reader | None = None
    fixed: Classes | None = None

    @property
    def by_twin(self) -> bool:
        """Whether rows are judged by what the original answers to their clean twins, not by classes of the model."""
        return self.kind != CLASSES

    def expected(self, answers: NDArray[Any], twins: Twins, clean: DataSet, data: DataSet) -> Expected:
        """What rows should be answered; of a reading `by_twin`.

        Args:
            answers: what the original answers to the clean rows (M, ...).
            clean, data: the clean rows, and those that are judged.

        Raises:
            AtpatchError: ATP056 where the clean rows are too few, or their tokens are not known, or none can be judged.
        """
        if self.kind == TOKENS:
            labels = TokenLabels.of(answers, twins, clean, data)
            if (labels.wanted == NONE).all():
                raise DATA_MALFORMED(
                    f"no token of {len(data)} rows can be judged: none is also in the clean twin, with a label there"
                    " (padding, and a first or last token that all clean rows share, do not count)",
                    "give longer or more different texts, made with one tokenizer; check 'clean_row'",
                )
            return labels
        return Neighbors.of(answers, twins)


def find_reading(
    runner: Runner,
    data: DataSet,
    kind: str,
    *,
    output_name: str | None = None,
    answer_tokens: Sequence[int] | None = None,
    score_threshold: ScoreThreshold | None = None,
    folders: Sequence[Path] = (),
) -> Reading:
    """How a model is read on a data set.

    Args:
        folders: where files may say how embeddings are pooled.

    Raises:
        AtpatchError: ATP060 (options), ATP062 where no output is of that kind.
    """
    if kind != CLASSES:
        if score_threshold is not None or answer_tokens is not None:
            raise BAD_OPTION(f"--output-kind {kind} goes neither with --score-threshold nor with --answer-tokens")
        if kind == TOKENS:
            return Reading(kind, token_output(runner, data, output_name))
        reader = embedding_reader(runner, data, output_name, POOLS[kind], folders)
        return Reading(kind, reader.output, reader)
    if score_threshold is not None:
        if answer_tokens is not None:
            raise BAD_OPTION("--score-threshold makes classes of one score", "leave out --answer-tokens")
        output, threshold = find_threshold(runner, data, output_name, score_threshold)
        return Reading(kind, output, None, threshold)
    answers = answers_of(runner, data, answer_tokens)
    return Reading(kind, prediction_output(runner.answering(answers), data, output_name), answers)


def all_values(runner: Runner, data: DataSet, output: str, size: int = 64) -> NDArray[Any]:
    """What a runner that cuts no rows reads off an output for all of them (N, ...)."""
    found = runner.batches(data, np.arange(len(data)), size, [output])
    return np.concatenate([outputs[output][: len(rows)] for rows, outputs in found])
