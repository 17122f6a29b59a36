"""Whether rows are of this model: on rows that it cannot do, nothing that it answers says anything."""

from __future__ import annotations

import numpy as np

from ...debugset.row_checks import FEWEST, check_scores
from ...debugset.subject import Subject
from ...errors import ROWS_MISFIT
from ...inference.datasets import DataSet, Ints
from ...inference.tokenizer import TextEncoder

__all__ = ["check_rows", "check_tokenizer"]

SURE = 3.0
"""Standard errors above chance."""
SPARE, SPARE_SHARE = 1024, 0.05
"""Rows of an embedding that may be left over: tables are filled up to a round number, and some words are kept free."""


def check_tokenizer(encoder: TextEncoder, words: int) -> None:
    """Compare a tokenizer with the model's embedding.

    Args:
        words: rows of the embedding.

    Raises:
        AtpatchError: ATP085 where they do not go together.
    """
    found = encoder.vocabulary
    if found > words or words - found > max(SPARE, SPARE_SHARE * words):
        raise ROWS_MISFIT(
            f"the tokenizer has {found:,} tokens, and the model reads {words:,}: it is another model's",
            "give the folder of the model's own tokenizer with --tokenizer",
        )


def check_rows(subject: Subject, data: DataSet) -> None:
    """Let the model answer the rows.

    Raises:
        AtpatchError: ATP085 where it does no better on them than chance, or answers all of them alike, and what running
            raises.
    """
    scores = subject.scores(data.inputs)
    if data.labels is not None:
        check_scores(scores, data)
    answers = scores.argmax(1)
    advice = "check the scale or coding of the rows, the order of columns and classes, and the tokenizer"
    several = data.labels is None or len(np.unique(data.labels)) > 1
    if several and len(answers) >= FEWEST and len(np.unique(answers)) == 1:
        raise ROWS_MISFIT(f"the model answers class {answers[0]} on all {len(answers):,} rows", advice)
    if data.labels is None or len(answers) < FEWEST:
        return
    right, chance, error = balanced(answers, data.labels)
    if error and right < chance + SURE * error:
        raise ROWS_MISFIT(
            f"the model gets {(answers == data.labels).mean():.0%} of the {len(answers):,} rows right, which is chance:"
            f" over the classes of the labels {right:.0%}, and {chance:.0%} without a look at the rows",
            advice,
        )


def balanced(answers: Ints, labels: Ints) -> tuple[float, float, float]:
    """The mean share of right answers over the classes; what it is for the same answers in any order, and the standard
    error of that. The error is 0 where there is only one class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        return 0.0, 0.0, 0.0
    right = np.mean([(answers[labels == one] == one).mean() for one in classes])
    shares = np.array([(answers == one).mean() for one in classes])
    error = np.sqrt((shares * (1 - shares) / counts).sum()) / len(classes)
    return float(right), float(shares.mean()), float(error)
