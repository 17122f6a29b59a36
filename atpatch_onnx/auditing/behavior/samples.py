"""A few rows with the found trigger next to the same rows without it, for the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...debugset.sets import Built
from ...debugset.subject import Subject
from ...inference.datasets import Arrays

__all__ = ["Sample", "samples_of"]

SHOWN = 4
TRIED = 64


@dataclass(frozen=True, eq=False)
class Sample:
    """One row, as the graph's inputs without the sample axis, and the model's answers to both versions."""

    clean: Arrays
    triggered: Arrays
    before: int
    after: int


def samples_of(subject: Subject, built: Built, target: int) -> tuple[Sample, ...]:
    """Rows that the trigger sends to its class, of different classes where there are some."""
    # The clean rows are the first of a debugging set.
    source = built.clean or built.debug
    if built.triggered is None or source is None:
        return ()
    names = [name for name in subject.inputs if name in built.triggered and name in source]
    rows = np.arange(min(TRIED, len(built.triggered["clean_row"])))
    triggered = {name: np.asarray(built.triggered[name])[rows] for name in names}
    clean = {name: np.asarray(source[name])[built.triggered["clean_row"][rows]] for name in names}
    before, after = subject.predictions(clean), subject.predictions(triggered)
    works = np.flatnonzero((after == target) & (before != target))
    _, first = np.unique(before[works], return_index=True)
    chosen = list(dict.fromkeys([*works[np.sort(first)], *works]))[:SHOWN]
    return tuple(
        Sample(
            {name: array[row] for name, array in clean.items()},
            {name: array[row] for name, array in triggered.items()},
            int(before[row]),
            int(after[row]),
        )
        for row in chosen
    )
