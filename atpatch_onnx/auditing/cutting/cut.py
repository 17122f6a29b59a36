"""`audit --cut`: takes out the nodes that findings name, if it can be proven that nothing else changes.

1. Every value through which the named nodes act on the rest of the graph is exchanged for a value that they themselves
   read: what the network had before the plant was put in. Candidates are tried from the nearest on.
2. A candidate counts if both graphs give equal outputs, up to `ROUNDING`, on rows without a trigger, with optimizations
   off where the model runs so; if the outputs are not the same for all rows anyway; and if the finding is gone
   afterwards. Rows that are given must all be equal. Random ones may hold the trigger by chance, so half is enough.
3. If any of this fails, nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.model import io as model_io
from rewriters.model.bodies import walk_bodies
from rewriters.model.regular_files import check_destination

from ...debugset.subject import Subject
from ...errors import DATA_MALFORMED, AtpatchError, ModelError
from ...inference.datasets import DataSet
from ...inference.runner import Runner
from ...paths import refuse_overwriting
from ..behavior.rows import rows_of
from ..case import Case
from ..finding import Finding, label
from ..graph_logic import check_graph
from ..result import Cut
from .named import Place, places
from .rewiring import candidates, inner_values, rewired

__all__ = ["check_output", "cut_out"]

ROWS = 64
ROUNDING = 1e-5
"""Relative to the largest value: a planted term that is nearly zero without the trigger."""
HALF = 0.5
GRAPH_LOGIC = "AUD1"


def check_output(case: Case) -> None:
    """Refuse an output that cannot be written, before a long audit.

    Raises:
        AtpatchError: ATP016, ATP019, ATP021.
    """
    if case.options.cut is None:
        return
    if case.path is not None:
        refuse_overwriting(case.path, Path(case.options.cut))
    check_destination(case.options.cut)


def cut_out(case: Case, findings: Sequence[Finding]) -> Cut:
    """Take the planted nodes out and write the model; or say why not."""
    named = [one for one in findings if one.code.startswith(GRAPH_LOGIC) and one.severity != "note" and one.nodes]
    if not named:
        return Cut(None, (), 0, "no finding names nodes that could be taken out")
    try:
        rows = _rows(case)
        runs = _Runs(case, rows)
    except AtpatchError as error:
        return Cut(None, (), 0, f"it cannot be proven that nothing else changes: {error.what}; {error.fix}")
    if not any(_varies(array) for array in runs.before.values()):
        return Cut(None, (), len(rows), "every row gives the same output, so that equal outputs would prove nothing")
    names = {name for one in named for name in one.nodes}
    codes = {one.code for one in named}
    now = _Changed(case.proto, case.path, len(rows), 0.0)
    done: set[str] = set()
    # Findings name nodes of the network behind a plant, too: these stay once the findings are gone.
    while (acting := next(_acting(now.model, names, done), None)) is not None and (not done or now.said & codes):
        place, value = acting
        done.add(f"{place.path}/{value}")
        found = _without(runs, now.model, place, value)
        if found is None:
            why = f"no value of the network could be put in place of {value!r} without changing other outputs"
            return Cut(None, (), len(rows), why)
        now = found
    if left := now.said & codes:
        return Cut(None, (), len(rows), f"after taking them out {', '.join(sorted(left))} still find something")
    assert case.options.cut is not None
    model_io.save(now.model, case.options.cut, case.folder)
    removed = _removed(case.proto, now.model)
    return Cut(os.fspath(case.options.cut), removed, now.equal, "", now.difference)


@dataclass(frozen=True, eq=False)
class _Changed:
    """A model that gives the same as the one under audit, on enough rows.

    Attributes:
        path: of the one under audit.
        equal: rows on which both are equal.
        difference: the largest on these rows, relative to the largest value.
    """

    model: onnx.ModelProto
    path: Path | None
    equal: int
    difference: float

    @cached_property
    def said(self) -> set[str]:
        """Codes of what graph logic finds in it, but notes."""
        return {one.code for one in check_graph(self.model, self.path).findings if one.severity != "note"}


class _Runs:
    """Outputs of the model on rows without a trigger, to compare with.

    Attributes:
        before: output → values on all rows.
    """

    def __init__(self, case: Case, rows: DataSet) -> None:
        self.case, self._rows = case, rows
        self._wanted = HALF if case.options.clean is None else 1.0
        try:
            # Optimizations round differently in different graphs.
            self._optimize = False
            self.before = self._outputs(case.proto)
        except ModelError:
            self._optimize = True
            self.before = self._outputs(case.proto)

    def same(self, model: onnx.ModelProto) -> _Changed | None:
        """A changed model, if it gives the same on enough rows."""
        try:
            model_io.check(model)
            count, difference = self._compared(model)
        except AtpatchError:
            return None  # the value has another type or shape
        enough = count >= self._wanted * len(self._rows)
        return _Changed(model, self.case.path, count, difference) if enough else None

    def _compared(self, model: onnx.ModelProto) -> tuple[int, float]:
        """Rows that are equal, and the largest difference among them, relative to the largest value."""
        after = self._outputs(model)
        apart = np.zeros(len(self._rows))
        for name, old in self.before.items():
            new = after[name]
            if new.shape != old.shape or new.dtype != old.dtype:
                return 0, 0.0
            apart = np.maximum(apart, _apart(old, new, len(self._rows)))
        same = apart <= ROUNDING
        return int(same.sum()), float(apart[same].max(initial=0.0))

    def _outputs(self, model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        runner = Runner(model, self.case.folder, self.case.options.threads, optimize=self._optimize)
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in runner.outputs}
        for _, outputs in runner.batches(self._rows, np.arange(len(self._rows)), ROWS, runner.outputs):
            for name, array in outputs.items():
                parts[name].append(array)
        return {name: np.concatenate(arrays) if arrays[0].ndim else np.stack(arrays) for name, arrays in parts.items()}


def _apart(old: NDArray[Any], new: NDArray[Any], rows: int) -> NDArray[np.float64]:
    """(rows,): the largest difference in each row, relative to the largest value; infinite where one is no number."""
    if not np.issubdtype(old.dtype, np.number) and old.dtype != np.bool_:
        return np.full(rows, 0.0 if np.array_equal(old, new) else np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        a, b = old.astype(np.float64), new.astype(np.float64)
        gap = np.abs(a - b)
    gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.where(np.isfinite(gap), gap, np.inf))
    largest = float(np.max(np.abs(a), where=np.isfinite(a), initial=0.0)) or 1.0
    by_row = gap.reshape(rows, -1).max(1) if len(gap) == rows and gap.size else np.full(rows, gap.max(initial=0.0))
    return np.asarray(by_row / (largest if old.dtype.kind == "f" else ROUNDING))


def _without(runs: _Runs, model: onnx.ModelProto, place: Place, value: str) -> _Changed | None:
    """The model without what stands behind a value, equal on the rows; the one with the fewest findings left."""
    best: _Changed | None = None
    for inner in inner_values(place, value):
        for own in candidates(place, inner):
            made = rewired(model, place, inner, own)
            changed = None if made is None else runs.same(made)
            if changed is None:
                continue
            if not changed.said:
                return changed
            if best is None or len(changed.said) < len(best.said):
                best = changed
    return best


def _acting(model: onnx.ModelProto, names: set[str], done: set[str]) -> Iterator[tuple[Place, str]]:
    """Values through which named nodes still act on the rest, but those that were looked at."""
    for place in places(model, names):
        for value in place.leaving():
            if f"{place.path}/{value}" not in done:
                yield place, value


def _varies(array: NDArray[Any]) -> bool:
    return bool(len(array) > 1 and (array != array[:1]).any())


def _rows(case: Case) -> DataSet:
    """Rows without a trigger: those given, random tokens, or random numbers where every shape is known."""
    subject = case.subject()
    if case.options.clean is None:
        drawn = _drawn(subject, case.options.seed)
        if drawn is not None:
            return drawn
    data = rows_of(case, subject).data
    return DataSet(data.feeds(np.arange(min(ROWS, len(data)))))


def _drawn(subject: Subject, seed: int) -> DataSet | None:
    """Random numbers, for a graph of float inputs whose shapes are fixed but for the sample axis."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, value in subject.inputs.items():
        shape = value.shape[1:]
        if value.dtype.kind != "f" or not value.shape or not all(isinstance(size, int) for size in shape):
            return None
        count = value.shape[0] if isinstance(value.shape[0], int) else ROWS
        arrays[name] = generator.random((count, *(int(size) for size in shape if size is not None)), np.float32)
    if not arrays:
        raise DATA_MALFORMED("the graph has no input")
    return DataSet({name: array.astype(subject.inputs[name].dtype) for name, array in arrays.items()})


def _removed(before: onnx.ModelProto, after: onnx.ModelProto) -> tuple[str, ...]:
    """Nodes of any body, as findings name them, that are no longer there."""
    kept = [label(node) for _, body in walk_bodies(after) for node in body.node]
    return tuple(name for _, body in walk_bodies(before) for node in body.node if (name := label(node)) not in kept)
