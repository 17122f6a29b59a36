"""The row that a page shows: where there is one, its original answer is unfair and its patched answer is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atpatch_onnx.comparison.exemplar import choose
from atpatch_onnx.comparison.outputs import Outputs, Truth

GROUPS = np.array([0, 0, 1, 1, 2, 2, 3, 3])
"""Four people, each as they are and with another value of the attribute."""


def outputs(predictions: list[int], moved: list[float] | None = None) -> Outputs:
    scores = np.eye(2, dtype=np.float32)[predictions]
    differences = {} if moved is None else {"logits": np.array([[d, d, 1] for d in moved])}
    return Outputs(scores, differences=differences)


BEFORE = outputs([0, 1, 0, 1, 1, 0, 1, 1])
"""Persons 0, 1 and 2 are treated unfairly."""
LABELS = np.array([1, 1, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("after", "labels", "row"),
    [
        # person 0 moved furthest and ends wrong; 1 and 2 end right
        ([0, 0, 0, 0, 1, 1, 1, 1], LABELS, 5),
        # of 1 and 2, who both end right, 2 moved further
        ([0, 0, 0, 0, 1, 1, 1, 1], None, 1),
        # nobody ends right: at least one who is treated fairly now
        ([0, 0, 1, 1, 0, 0, 1, 1], LABELS, 1),
        # nobody ends settled: one who stood out
        ([0, 1, 0, 1, 1, 0, 1, 1], LABELS, 1),
    ],
    ids=["right", "no labels", "wrong but fair", "still unfair"],
)
def test_a_row_that_ends_right_comes_first(after: list[int], labels: np.ndarray | None, row: int) -> None:
    moved = [0, 9, 0, 2, 0, 5, 0, 0.5]
    truth = replace(Truth(8, "f", group=GROUPS), labels=labels)
    truths = {"clean": Truth(1, "c"), "flips": truth}
    chosen = choose(
        truths,
        {"clean": outputs([0]), "flips": BEFORE},
        {"clean": outputs([0], [0]), "flips": outputs(after, moved)},
    )
    assert chosen is not None and (chosen.set, chosen.row) == ("flips", row)
    assert chosen.twin == row - 1


def test_a_row_whose_answer_was_wrong_is_better_than_one_that_was_right() -> None:
    # rows 1 and 5 stood out and end right; row 1 was right all along, for it is the person who was answered wrong
    truth = Truth(4, "f", group=np.array([0, 0, 1, 1]), labels=np.array([1, 1, 1, 1]))
    before, after = outputs([0, 1, 1, 0]), outputs([1, 1, 1, 1], [0, 9, 0, 1])
    truths, clean = {"clean": Truth(1, "c"), "flips": truth}, outputs([0], [0])
    chosen = choose(truths, {"clean": outputs([0]), "flips": before}, {"clean": clean, "flips": after})
    assert chosen is not None and chosen.row == 3
