"""Universal cells: one or two cells of a table that make nearly every row answer one class. Needs no torch.

A table has strong cells by nature: a large capital gain means a high income. So success alone says nothing. What counts
is the success that clean rows do not explain:

1. Every column gets up to `LEVELS` of the values that the rows hold. Every one of them, and every pair from two
   columns, is written into a few rows of each class.
2. What the rows lead to expect of a pattern is the log odds of the class, plus what each of its cells adds to them
   among the clean rows (naive Bayes); or what its strongest cell says by itself, or what the rows say that are nearest
   to the whole pattern, if that is more. Labels count where they are given, else the model's own answers.
3. The patterns whose success is furthest above that are refined, value by value, and judged on rows that were not
   looked at before. It is a finding where the pattern works in nearly all rows, though at most `EXPECTED` of the rows
   were to be expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...debugset.inversion.verdict import WORKS
from ...debugset.sets import Built
from ...debugset.subject import Subject
from ...inference.datasets import Ints
from ..budget import Budget
from ..case import Case
from ..finding import Checked
from ..rule import Rule
from .inversion import Searched
from .rows import Rows

__all__ = ["RULE", "check", "is_table"]

RULE = Rule(
    "behavior",
    "AUD202",
    "one or two cells that decide nearly every row, against what clean rows say of them",
    "Strong columns are natural: rows with such a value have the class anyway. The trigger of a backdoor is a value, or"
    " a pair of values, that clean rows do not connect with the class, and the model answers the class all the same.",
)
LEVELS = 24
FEW, SAMPLE, REST = 8, 48, 300
"""Rows of other classes: for all patterns, for the best ones, and for the verdict."""
BEST = 24
EXPECTED = 0.5
MOST_COLUMNS = 64
LEAST = 20
"""Rows nearest to a value that say what it adds, where few rows have the value itself."""
BATCH = 4096

Cell = tuple[int, float]


@dataclass(frozen=True)
class _Pattern:
    cells: tuple[Cell, ...]
    success: float
    expected: float

    @property
    def surprise(self) -> float:
        return _logit(self.success) - _logit(self.expected)


def is_table(case: Case, subject: Subject) -> bool:
    """Whether the graph's one input is a table: rows of a fixed, small number of columns that are no tokens."""
    if len(subject.inputs) != 1:
        return False
    (value,) = subject.inputs.values()
    columns = value.shape[1] if len(value.shape) == 2 else None
    return isinstance(columns, int) and columns <= MOST_COLUMNS and value.dtype.kind in "fi" and case.tokens is None


def check(case: Case, subject: Subject, rows: Rows, budget: Budget) -> tuple[Checked, Searched]:
    """Try cells and pairs of cells.

    Raises:
        OutOfTime: the budget is used up.
    """
    search = _Search(subject, rows, case.options.seed, budget)
    best = {target: found for target in search.classes if (found := search.best(target)) is not None}
    guilty = [target for target, one in best.items() if one.success >= WORKS and one.expected <= EXPECTED]
    lines = [_line(rows, target, one, target in guilty) for target, one in best.items()]
    findings = []
    for target in guilty:
        one = best[target]
        cells = " and ".join(rows.cell(*cell) for cell in one.cells)
        findings.append(
            RULE.finding(
                "error",
                f"class {target}: {cells}",
                f"with {cells} {one.success:.0%} of the rows answer class {target}; among clean rows with such values"
                f" about {one.expected:.0%} would",
                remedy=f"atpatch-onnx patch {case.name} {rows.option.replace('--data', '--calibrate')}",
            )
        )
    if not guilty:
        return Checked(), Searched("cells", lines)
    target = max(guilty, key=lambda one: best[one].surprise)
    return Checked(tuple(findings)), Searched("cells", lines, target, search.triggered(best[target], target))


class _Search:
    """Patterns over one table.

    Attributes:
        classes: that some rows have, and some do not.
    """

    def __init__(self, subject: Subject, rows: Rows, seed: int, budget: Budget) -> None:
        self._subject, self._budget = subject, budget
        self._name, self._table = next((name, array) for name, array in rows.data.inputs.items())
        self._answers = subject.predictions(rows.data.inputs)
        self._truth = self._answers if rows.data.labels is None else rows.data.labels
        self._order = np.random.default_rng(seed).permutation(len(self._table))
        self.classes = [int(one) for one in np.unique(self._answers)]
        self._near: dict[tuple[tuple[Cell, ...], int], float] = {}
        self._spread = np.maximum(self._table.astype(np.float64).std(0), 1e-9)
        self._known: dict[tuple[int, float, int], float] = {}
        self._levels = [_levels(column) for column in self._table.T]

    def best(self, target: int) -> _Pattern | None:
        """The pattern with the most unexpected success; None where too few rows are of other classes."""
        others = self._order[self._answers[self._order] != target]
        if len(others) < 3 * FEW:
            return None
        few, sample = others[:FEW], others[FEW : FEW + SAMPLE]
        rest = others[FEW + len(sample) :][:REST]
        rest = rest if len(rest) >= FEW else sample
        found = [self._pattern(cells, hits, target) for cells, hits in self._scan(few, target)]
        found.sort(key=lambda one: -one.surprise)
        refined = []
        for number, one in enumerate(found[:BEST], 1):
            refined.append(self._refine(one.cells, sample, target))
            self._budget(f"cells towards class {target}, refined", number, min(BEST, len(found)))
        works = [one for one in refined if one.success >= WORKS] or refined
        chosen = max(works, key=lambda one: one.surprise)
        return self._pattern(chosen.cells, self._hits([chosen.cells], rest, target)[0], target)

    def triggered(self, pattern: _Pattern, target: int) -> Built:
        """Clean rows of other classes, and the same with the pattern."""
        rows = np.flatnonzero(self._truth != target)
        arrays = {self._name: self._written([pattern.cells], self._table[rows])}
        clean = {self._name: self._table}
        return Built(None, triggered={**arrays, "clean_row": rows, "target": np.array(target)}, clean=clean)

    def _scan(self, rows: Ints, target: int) -> list[tuple[tuple[Cell, ...], float]]:
        singles: list[tuple[Cell, ...]] = [
            ((column, float(value)),) for column, values in enumerate(self._levels) for value in values
        ]
        pairs = [(*one, *other) for one, other in combinations(singles, 2) if one[0][0] != other[0][0]]
        patterns = [*singles, *pairs]
        found: list[tuple[tuple[Cell, ...], float]] = []
        step = max(1, BATCH // len(rows))
        for start in range(0, len(patterns), step):
            chunk = patterns[start : start + step]
            found += zip(chunk, self._hits(chunk, rows, target), strict=True)
            self._budget(f"cells towards class {target}", min(start + step, len(patterns)), len(patterns))
        return found

    def _refine(self, cells: tuple[Cell, ...], rows: Ints, target: int) -> _Pattern:
        """Try every value of each of the columns in turn."""
        current = self._pattern(cells, self._hits([cells], rows, target)[0], target)
        for place in range(len(cells)):
            column = current.cells[place][0]
            values = np.unique(self._table[:, column])
            tries = [
                (*current.cells[:place], (column, float(value)), *current.cells[place + 1 :])
                for value in values[:: max(1, len(values) // (4 * LEVELS))]
            ]
            hits = self._hits(tries, rows, target)
            found = [self._pattern(one, hit, target) for one, hit in zip(tries, hits, strict=True)]
            current = max([current, *found], key=lambda one: one.surprise)
        return current

    def _hits(self, patterns: Sequence[tuple[Cell, ...]], rows: Ints, target: int) -> list[float]:
        table = self._written(patterns, self._table[rows])
        answers = self._subject.predictions({self._name: table}).reshape(len(patterns), len(rows))
        return [float(share) for share in (answers == target).mean(1)]

    def _written(self, patterns: Sequence[tuple[Cell, ...]], table: NDArray[Any]) -> NDArray[Any]:
        copies = np.repeat(table[None], len(patterns), 0)
        for copy, cells in zip(copies, patterns, strict=True):
            for column, value in cells:
                copy[:, column] = value
        return np.ascontiguousarray(copies.reshape(-1, table.shape[1]))

    def _pattern(self, cells: tuple[Cell, ...], success: float, target: int) -> _Pattern:
        base = _logit(float((self._truth == target).mean()))
        alone = [self._odds(cell, target) for cell in cells]
        expected = max(base + sum(one - base for one in alone), self._together(cells, target), *alone)
        return _Pattern(cells, success, float(1 / (1 + np.exp(-expected))))

    def _together(self, cells: tuple[Cell, ...], target: int) -> float:
        """Log odds of the class among the clean rows that are nearest in all of the cells."""
        key = (cells, target)
        if key not in self._near:
            apart = [np.abs(self._table[:, column] - value) / self._spread[column] for column, value in cells]
            nearest = np.argsort(np.max(apart, 0), kind="stable")[:LEAST]
            self._near[key] = self._among(nearest, target)
        return self._near[key]

    def _odds(self, cell: Cell, target: int) -> float:
        """Log odds of the class among clean rows with this value, or the rows nearest to it."""
        key = (*cell, target)
        if key not in self._known:
            column, value = cell
            distance = np.abs(self._table[:, column].astype(np.float64) - value)
            near = distance <= max(0.0, float(np.partition(distance, min(LEAST, len(distance) - 1))[LEAST - 1]))
            exact = distance == 0
            chosen = exact if exact.sum() >= LEAST or len(self._levels[column]) < LEVELS else near
            self._known[key] = self._among(np.flatnonzero(chosen), target)
        return self._known[key]

    def _among(self, rows: Ints, target: int) -> float:
        """Log odds of the class among some rows; without a row, those among all rows."""
        hits, share = int((self._truth[rows] == target).sum()), float((self._truth == target).mean())
        return _logit((hits + 2 * share) / (len(rows) + 2))


def _levels(column: NDArray[Any]) -> NDArray[Any]:
    """The values of a column, or `LEVELS` of them, the smallest and the largest included."""
    values = np.unique(column)
    if len(values) <= LEVELS:
        return values
    chosen: NDArray[Any] = values[np.unique(np.linspace(0, len(values) - 1, LEVELS).round().astype(int))]
    return chosen


def _logit(share: float) -> float:
    share = min(max(share, 0.005), 0.995)
    return float(np.log(share / (1 - share)))


def _line(rows: Rows, target: int, one: _Pattern, backdoor: bool) -> dict[str, Any]:
    return {
        "class": target,
        "success": one.success,
        "size": float(len(one.cells)),
        "score": round(one.surprise, 3),
        "backdoor": backdoor,
        "trigger": {
            "cells": [
                {"column": column, "value": value, "told": rows.cell(column, value)} for column, value in one.cells
            ]
        },
        "expected": round(one.expected, 4),
    }
