"""`PatchPlan.wider`: a second try of the second run, with more columns, where the first does not change the prediction.

A trigger of several tokens works as long as one of them is left, so taking out only the most conspicuous one may change
nothing. The second run then holds every sample twice: first with the columns that are flagged, then with wider ones.
So one copy of the model makes both answers. Of the two the first one with a changed prediction is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..emit import Emitter
from ..names import first_run
from ..subgraphs.flagging import with_companions

__all__ = ["first_changed", "predictions", "stacked", "wider_columns"]


def stacked(e: Emitter, first: str, second: str) -> str:
    """(2·B, ...): what belongs to the first answers, then what belongs to the second ones."""
    return e.op("Concat", first, second, axis=0, role="both_answers")


def wider_columns(e: Emitter, columns: str, highest: str, scores: str) -> str:
    """(B, K) bool: in flagged samples the flagged columns and the highest ones that score above 0, nowhere else any.

    Args:
        columns: flagged ones, (B, K) bool.
        highest: (B, K) bool, those with the highest scores of each sample, flagged or not.
        scores: (B, K) float32, at padding -inf, or 0 as a probability.
    """
    return with_companions(e, columns, e.op("And", highest, e.op("Greater", scores, e.constant(0.0)), role="wider"))


def predictions(e: Emitter, scores: str) -> str:
    """(B,) int64: the class of the highest score, of (B, classes)."""
    return e.op("ArgMax", scores, axis=-1, keepdims=0)


def first_changed(
    e: Emitter, names: Mapping[str, str], outputs: Sequence[str], rows: str | None, flip: str | None
) -> dict[str, str]:
    """Outputs of the second run by name, of each sample the try that is taken."""
    assert flip is not None  # the plan is possible
    before = first_run(flip) if rows is None else e.op("Gather", first_run(flip), rows, axis=0)
    taken = _first_changed(e, before, names[flip])
    return {name: e.op("Gather", names[name], taken, axis=0) for name in outputs if name in names}


def _first_changed(e: Emitter, before: str, scores: str) -> str:
    """(B,) int64: rows among 2·B answers, of each sample the first answer with another prediction than before, and of
    those without any the first one.

    Args:
        before: class scores of the first run, (B, classes).
        scores: class scores of both answers, (2·B, classes).
    """
    old = predictions(e, before)
    new = e.op("Reshape", predictions(e, scores), e.constant([2, -1], np.int64))
    changed = e.number(e.op("Not", e.op("Equal", new, old)))
    answer = e.op("ArgMax", changed, axis=0, keepdims=0, role="answer")
    samples = e.squeeze(e.dims(old, 0), 0)
    places = e.op("Range", e.constant(0, np.int64), samples, e.constant(1, np.int64), role="places")
    return e.op("Add", e.op("Mul", answer, samples), places, role="answers_taken")
