"""What the second run of two passes answers, without running the same thing twice.

Where sites add up their scores, these are of the original's maps: no threshold, benign pair or repair changes them. So
the patched graph runs once to tell them, and the flagged columns at every threshold follow. What the second run makes
of a row follows from its flagged columns: each set of them is run once, in a graph that holds the second run only.

Shape letters: N rows of the data set, K key columns, C classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from rewriters.editing.controls import OVERRIDABLE_FROM
from rewriters.editing.patcher import patch
from rewriters.editing.second_run import joint_scores, second_run_of
from rewriters.errors import AtpatchError
from rewriters.names import GIVEN_COLUMNS
from rewriters.plan import PatchPlan

from ..inference.datasets import Ints
from ..inference.prediction import batch_size, by_row
from ..inference.runner import Runner, expose
from .calibration import BENIGN_CHOICES, BenignChoice
from .site_selection import Candidate
from .training import Context, TrainedSite

__all__ = ["Answers", "SecondRuns"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """Class scores (N, C) and flags (N,); nan and False at rows not asked for."""

    scores: Floats
    flagged: Bools


@dataclass(frozen=True)
class _FirstRun:
    """What the first run of a candidate tells.

    Attributes:
        sites: of the candidate.
        scores: (N, C) its answers.
        joint: (N, K) the joint scores, as they are compared with the threshold.
        judged: (N, K) the columns that have a score.
    """

    sites: tuple[TrainedSite, ...]
    scores: Floats
    joint: Floats
    judged: Bools

    def flagged(self, threshold: float, companion: float, ids: NDArray[Any] | None) -> Bools:
        """(N, K): what the graph flags, as `rewriters.editing.joining` has it.

        Args:
            ids: (N, K) tokens, of which equal ones count as one.
        """
        joint = self.joint if ids is None else self._of_equal_tokens(ids)
        bar = np.float32(threshold)
        columns = joint > bar
        return columns | ((joint > bar * np.float32(companion)) & columns.any(1, keepdims=True))

    def _of_equal_tokens(self, ids: NDArray[Any]) -> Floats:
        joint = self.joint.copy()
        for row in np.flatnonzero(self.judged.any(1)):
            judged = self.judged[row]
            _, token = np.unique(ids[row][judged], return_inverse=True)
            highest = np.full(len(token), -np.inf, np.float32)
            np.maximum.at(highest, token, joint[row][judged])
            joint[row, judged] = highest[token]
        return joint


class SecondRuns:
    """Answers of one model's candidates on the rows of its data set; several fits may ask the same object.

    Args:
        output: graph output with the class scores.
    """

    def __init__(self, context: Context, output: str) -> None:
        self._context, self._output = context, output
        self._first: _FirstRun | None = None
        self._known: dict[Hashable, dict[tuple[int, bytes], Floats]] = {}
        self._live: tuple[Hashable, Runner | None] = (None, None)

    def answers(self, candidate: Candidate, choice: BenignChoice, threshold: float, rows: Ints) -> Answers | None:
        """What the graph patched by a candidate answers at a threshold; None where only that graph can tell.

        Args:
            rows: all that are to be answered at any threshold, the same in all calls for a candidate.
        """
        if not self._tells(candidate):
            return None
        first = self._first_run(candidate, rows)
        ids = None if candidate.tokens is None else self._context.data.inputs[candidate.tokens]
        columns = first.flagged(threshold, candidate.companion, ids)
        hit = np.asarray(columns.any(1))
        flagged = np.flatnonzero(hit)
        scores = first.scores.copy()
        if len(flagged):
            second = self._second_run(candidate, choice, flagged, columns)
            if second is None:
                return None
            scores[flagged] = second
        return Answers(scores, hit)

    def _tells(self, candidate: Candidate) -> bool:
        """Whether flags and answers follow from the joint scores."""
        context = self._context
        summed = candidate.passes == "two" and candidate.joint == "sum" and candidate.accept == "always"
        of_tokens = context.mask is None or context.data.inputs[context.mask].shape == context.columns.shape
        steered = context.model.ir_version >= OVERRIDABLE_FROM
        return summed and of_tokens and steered and context.merged is None

    def _first_run(self, candidate: Candidate, rows: Ints) -> _FirstRun:
        """With an infinite threshold nothing is flagged."""
        if self._first is not None and self._first.sites is candidate.sites:
            return self._first
        data, columns = self._context.data, self._context.columns.shape
        plan = Candidate(candidate.sites, "two", "always", joint="sum").plan(BENIGN_CHOICES[0])
        patched = patch(
            self._context.model,
            replace(plan, telemetry=True, controls="optional"),
            [one.site for one in candidate.sites],
            rows=self._context.rows,
        )
        names = joint_scores(patched)
        runner = self._runner(expose(patched, [(name, TensorProto.FLOAT) for name in names]))
        compared, summed = (np.full(columns, -np.inf, np.float32) for _ in names)
        answers = []
        for chunk, found in runner.batches(data, rows, batch_size(runner), [self._output, *names], math.inf):
            answers.append((chunk, found[self._output]))
            for whole, name in zip((compared, summed), names, strict=True):
                whole[chunk, : found[name].shape[1]] = found[name]
        self._first = _FirstRun(candidate.sites, by_row(len(data), answers), compared, np.isfinite(summed))
        return self._first

    def _second_run(self, candidate: Candidate, choice: BenignChoice, rows: Ints, columns: Bools) -> Floats | None:
        """Class scores (M, C) of M rows with flagged columns (N, K)."""
        plan = Candidate(candidate.sites, "two", "always", joint="sum", mend=candidate.mend).plan(choice)
        acting = _acting(plan)
        known = self._known.setdefault(acting, {})
        keys = {int(row): (int(row), np.packbits(columns[row]).tobytes()) for row in rows}
        new = np.array([row for row, key in keys.items() if key not in known], np.int64)
        if len(new):
            runner = self._second_runner(acting, candidate, plan)
            if runner is None:
                return None
            data = replace(self._context.data, inputs={**self._context.data.inputs, GIVEN_COLUMNS: columns})
            for chunk, found in runner.batches(data, new, batch_size(runner), [self._output]):
                known.update(zip((keys[row] for row in chunk.tolist()), found[self._output], strict=True))
        return np.array([known[key] for key in keys.values()])

    def _second_runner(self, acting: Hashable, candidate: Candidate, plan: PatchPlan) -> Runner | None:
        """The last one is kept."""
        if self._live[0] != acting:
            sites = [one.site for one in candidate.sites]
            alone = second_run_of(self._context.model, plan, sites, self._output, self._context.rows)
            self._live = acting, None if isinstance(alone, AtpatchError) else self._runner(alone)
        return self._live[1]

    def _runner(self, model: onnx.ModelProto) -> Runner:
        context = self._context
        runner = Runner(model, context.folder, context.threads).without_padding(context.mask)
        return runner.answering(context.reader).classed(self._output, context.classes)


def _acting(plan: PatchPlan) -> Hashable:
    """Equal for plans whose second runs are the same."""
    if plan.mend == "excise":
        return plan.mend, plan.groups
    told = hashlib.sha256()
    for name, site in plan.sites.items():
        benign = site.benign
        told.update(repr((name, site.every_row_sees_every_column, benign.own_values, benign.attention.shape)).encode())
        for array in (benign.attention, benign.values):
            told.update(b"" if array is None else array.tobytes())
    return plan.mend, plan.groups, told.hexdigest()
