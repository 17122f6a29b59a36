"""Puts clean rows and their anomalous partners together into sets, and writes them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.model.atomic import write_file

from ..errors import DATA_MALFORMED, NOTHING_FOUND
from ..inference.datasets import Arrays, DataSet, Ints

__all__ = ["Anomalous", "Built", "clean_arrays", "open_rows", "triggered_sets", "write_arrays", "write_raw"]


@dataclass(frozen=True)
class Anomalous:
    """Anomalous twins of clean rows: graph inputs (M, ...), labeled columns (M, K), the clean row (M,) of each, and
    where they are known the number of copies (M,) of the trigger and its form (M,).
    """

    inputs: Arrays
    columns: NDArray[np.bool_]
    clean_row: Ints
    dose: Ints | None = None
    form: NDArray[np.str_] | None = None


@dataclass(frozen=True)
class Built:
    """The arrays of each file by name, and a report for people and programs.

    Attributes:
        debug: the set for `fit`; None where an inversion found no backdoor.
        triggered: the set for ASR, None where there is none.
        flips: the set for UF, None where there is none.
        clean: the clean rows that `clean_row` of the triggered set points to, None where there are none.
    """

    debug: Arrays | None
    triggered: Arrays | None = None
    flips: Arrays | None = None
    clean: Arrays | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


def open_rows(labels: Ints, target: int) -> Ints:
    """Rows whose prediction an attack can change: all but those of the target class.

    Raises:
        AtpatchError: ATP083 where none is left.
    """
    rows = np.flatnonzero(labels != target)
    if not len(rows):
        raise NOTHING_FOUND(f"every row is of the target class {target}")
    return rows


def clean_arrays(clean: DataSet) -> dict[str, NDArray[Any]]:
    """The arrays of a file of clean rows: the graph's inputs, labels, and what is known of the right answers."""
    names = ("labels", "output_kind", "answer_tokens", "answer")
    known = {name: np.asarray(value) for name in names if (value := getattr(clean, name)) is not None}
    return {**clean.inputs, **known}


def triggered_sets(clean: DataSet, anomalous: Anomalous, target: int | None, report: Mapping[str, Any]) -> Built:
    """Debugging set and triggered set of a backdoor.

    Args:
        clean: clean rows, in the same shapes as the anomalous ones.
        target: None for a model without classes.
    """
    count, rows = len(clean), anomalous.clean_row
    labels = clean.labels
    twins = {} if labels is None else {"labels": labels[rows]}
    kind = {} if clean.output_kind is None else {"output_kind": np.array(clean.output_kind)}
    aim = kind if target is None else {"target": np.array(target)}
    answers = {} if clean.answer_tokens is None else {"answer_tokens": clean.answer_tokens}
    columns = np.zeros((count + len(rows), anomalous.columns.shape[1]), bool)
    columns[count:] = anomalous.columns
    debug: dict[str, NDArray[Any]] = {
        **{name: np.concatenate([array, anomalous.inputs[name]]) for name, array in clean.inputs.items()},
        **({} if labels is None else {"labels": np.concatenate([labels, labels[rows]])}),
        "columns": columns,
        "pair": np.concatenate([np.full(count, -1, np.int64), rows]),
        **({} if anomalous.dose is None else {"dose": np.concatenate([np.zeros(count, np.int64), anomalous.dose])}),
        **aim,
        **answers,
    }
    doses: dict[str, NDArray[Any]] = {} if anomalous.dose is None else {"dose": anomalous.dose}
    if anomalous.form is not None:
        doses["form"] = anomalous.form
        debug["form"] = np.concatenate([np.full(count, "", anomalous.form.dtype), anomalous.form])
    if clean.answer is not None:
        doses["answer"] = clean.answer[rows]
    triggered = {**anomalous.inputs, **twins, **doses, **aim, "clean_row": rows, **answers}
    facts = {
        "clean": count,
        "anomalous": len(rows),
        **({} if target is None else {"target": target}),
        "columns": columns[count:].sum(1).mean().item(),
        **report,
    }
    return Built(debug, triggered, None, clean_arrays(clean), facts)


def write_arrays(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write an `.npz` under a temporary name and rename it. The same arrays give the same bytes.

    Raises:
        AtpatchError: ATP056 where the arrays contradict each other, ATP019 where nothing can be written.
    """
    path = Path(path)
    DataSet.from_arrays(arrays, str(path))
    if any(array.dtype.hasobject for array in arrays.values()):
        raise DATA_MALFORMED(f"{path} would hold Python objects")
    write_raw(path, arrays)


def write_raw(path: Path, arrays: Arrays) -> None:
    """Write arrays as an `.npz`, completely or not at all.

    Raises:
        AtpatchError: ATP019 where nothing can be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())
