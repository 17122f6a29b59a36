"""`audit --cut`: takes out the nodes that findings name, if it can be proven that nothing else changes.

1. Every value through which the named nodes act on the rest of the graph is exchanged for a value that they themselves
   read: what the network had before the plant was put in. Candidates are tried from the nearest on.
2. A candidate counts if both graphs give equal outputs, bit for bit, on rows without a trigger, with optimizations off;
   if the outputs are not the same for all rows anyway; and if the finding is gone afterwards.
3. If any of this fails, nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.model import io as model_io
from rewriters.model.bodies import walk_bodies
from rewriters.model.regular_files import check_destination

from ...debugset.subject import Subject
from ...errors import DATA_MALFORMED, AtpatchError
from ...inference.datasets import DataSet
from ...inference.runner import Runner
from ...paths import refuse_overwriting
from ..behavior.rows import rows_of
from ..case import Case
from ..finding import Finding
from ..graph_logic import check_graph
from ..result import Cut
from .named import Place, label, places
from .rewiring import candidates, rewired

__all__ = ["check_output", "cut_out"]

ROWS = 64
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
        before = _outputs(case.proto, case.folder, rows, case.options.threads)
    except AtpatchError as error:
        return Cut(None, (), 0, f"it cannot be proven that nothing else changes: {error.what}; {error.fix}")
    if not any(_varies(array) for array in before.values()):
        return Cut(None, (), len(rows), "every row gives the same output, so that equal outputs would prove nothing")
    names = {name for one in named for name in one.nodes}
    model = case.proto
    for place in places(model, names):
        for value in place.leaving():
            found = _without(case, model, place, value, rows, before)
            if found is None:
                why = f"no value of the network could be put in place of {value!r} without changing other outputs"
                return Cut(None, (), len(rows), why)
            model = found
    left = _said(model, case.path) & {one.code for one in named}
    if left:
        return Cut(None, (), len(rows), f"after taking them out {', '.join(sorted(left))} still find something")
    assert case.options.cut is not None
    model_io.save(model, case.options.cut, case.folder)
    return Cut(os.fspath(case.options.cut), _removed(case.proto, model), len(rows), "")


def _without(
    case: Case,
    model: onnx.ModelProto,
    place: Place,
    value: str,
    rows: DataSet,
    before: dict[str, NDArray[Any]],
) -> onnx.ModelProto | None:
    """The model without what stands behind a value, equal on all rows; the one with the fewest findings left."""
    best: tuple[int, onnx.ModelProto] | None = None
    for own in candidates(place, value):
        changed = rewired(model, place, value, own)
        if changed is None or not _equal(changed, case, rows, before):
            continue
        left = len(_said(changed, case.path))
        if best is None or left < best[0]:
            best = (left, changed)
        if not left:
            break
    return None if best is None else best[1]


def _equal(model: onnx.ModelProto, case: Case, rows: DataSet, before: dict[str, NDArray[Any]]) -> bool:
    try:
        model_io.check(model)
        after = _outputs(model, case.folder, rows, case.options.threads)
    except AtpatchError:
        return False  # the value has another type or shape
    return all(np.array_equal(after[name], array, equal_nan=array.dtype.kind == "f") for name, array in before.items())


def _outputs(model: onnx.ModelProto, folder: Path, rows: DataSet, threads: int | None) -> dict[str, NDArray[Any]]:
    """Every output of the graph on the rows. Without optimizations, which round differently in other graphs."""
    runner = Runner(model, folder, threads, optimize=False)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in runner.outputs}
    for _, outputs in runner.batches(rows, np.arange(len(rows)), ROWS, runner.outputs):
        for name, array in outputs.items():
            parts[name].append(array)
    return {name: np.concatenate(arrays) if arrays[0].ndim else np.stack(arrays) for name, arrays in parts.items()}


def _varies(array: NDArray[Any]) -> bool:
    return bool(len(array) > 1 and (array != array[:1]).any())


def _rows(case: Case) -> DataSet:
    """Rows without a trigger: those given, random tokens, or random numbers where every shape is known."""
    subject = Subject(case.proto, case.options.output_name, case.options.threads)
    subject.folder = case.folder
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


def _said(model: onnx.ModelProto, path: Path | None) -> set[str]:
    return {one.code for one in check_graph(model, path).findings if one.severity != "note"}


def _removed(before: onnx.ModelProto, after: onnx.ModelProto) -> tuple[str, ...]:
    """Nodes of any body, as findings name them, that are no longer there."""
    kept = [label(node) for _, body in walk_bodies(after) for node in body.node]
    return tuple(name for _, body in walk_bodies(before) for node in body.node if (name := label(node)) not in kept)
