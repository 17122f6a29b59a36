"""Tables: a small JSON or TOML file says which column of the data goes where in the graph's inputs.

A description in TOML::

    label = "income"                  # column with the classes; a list `classes` names them in order, else they are
                                      # whole numbers
    classes = ["<=50K", ">50K"]
    [[columns]]
    name = "sex"                      # column of the CSV, and the name for --attribute
    input = "x_categ"                 # graph input, may be left out where the graph has one
    index = 3                         # place in that input's rows
    values = ["Female", "Male"]       # code = place in this list; left out for numbers
    token = 4                         # key column(s) of the maps; left out: found by experiment
    [[columns]]
    name = "age"
    index = 0
    mean = 38.6                       # numbers enter the graph as (x - mean) / std
    std = 13.7
    levels = [20, 30, 40, 50, 60]     # values to try for --attribute; left out: those of the data
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.model.regular_files import check_source

from ..errors import BAD_OPTION, SAMPLES_UNREADABLE, AtpatchError
from ..inference.datasets import DataSet, load_dataset
from .samples import read_rows
from .subject import Subject

__all__ = ["Column", "Description", "attribute_of", "check_table", "coded_rows", "read_description", "read_table"]


KEYS = {"name", "input", "index", "values", "token", "mean", "std", "levels"}
"""Keys of a column in a description."""


@dataclass(frozen=True)
class Column:
    """One column; see the module.

    `values` is empty for numbers; `tokens` and `levels` are None where they have to be found.
    """

    name: str
    input: str
    index: int
    values: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    levels: tuple[float, ...] | None = None
    tokens: tuple[int, ...] | None = None

    def code(self, text: str) -> float:
        """What enters the graph for a field of the CSV.

        Raises:
            ValueError: for a value that is not listed, or is not a number.
        """
        if self.values:
            if text not in self.values:
                raise ValueError(f"{text!r} is not among the values of {self.name!r}: {', '.join(self.values[:12])}")
            return float(self.values.index(text))
        return (float(text) - self.mean) / self.std

    def alternatives(self, data: DataSet) -> NDArray[Any]:
        """All values of the column, as they enter the graph, ascending."""
        array = data.inputs[self.input]
        if self.values:
            return np.arange(len(self.values)).astype(array.dtype)
        if self.levels is not None:
            return np.unique(((np.array(self.levels) - self.mean) / self.std).astype(array.dtype))
        return np.unique(array[:, self.index])

    def word(self, value: float) -> str:
        """A value of the graph in the table's own words."""
        return self.values[int(value)] if self.values else f"{value * self.std + self.mean:g}"


@dataclass(frozen=True)
class Description:
    """All columns of a table, and its label column."""

    columns: tuple[Column, ...]
    label: str | None = None
    classes: tuple[str, ...] = ()


def read_description(path: str | os.PathLike[str], subject: Subject) -> Description:
    """Read a `.json` or `.toml` file.

    Raises:
        AtpatchError: ATP002 where there is none, ATP080 where it is not a description of this graph's inputs.
    """
    with _of_a_description(path):
        raw = _raw_description(path)
        columns = tuple(_column(entry, subject) for entry in raw["columns"])
        classes = tuple(str(name) for name in raw.get("classes", ()))
        return Description(columns, raw.get("label"), classes)


def check_table(path: str | os.PathLike[str], columns: str | os.PathLike[str] | None) -> None:
    """Refuse a table whose description is missing or names columns that it has not, whatever the model.

    Args:
        path: an `.npz`, which needs no description, or a CSV.
        columns: the file of the description. None: there is none.

    Raises:
        AtpatchError: ATP002 for files that are not there, ATP080.
    """
    names: list[str] = []
    if columns is not None:
        with _of_a_description(columns):
            raw = _raw_description(columns)
            names = [str(entry["name"]) for entry in raw["columns"]] + ([raw["label"]] if raw.get("label") else [])
    if Path(path).suffix.lower() == ".npz":
        return
    if columns is None:
        raise _no_description(path)
    _check_header(path, read_rows(path)[0], names)


def read_table(path: str | os.PathLike[str], description: Description | None, subject: Subject) -> DataSet:
    """Rows of an `.npz` in the graph's own coding, or of a CSV by its description.

    Raises:
        AtpatchError: ATP002, ATP056, ATP080.
    """
    if Path(path).suffix.lower() == ".npz":
        return subject.complete(load_dataset(path))
    if description is None:
        raise _no_description(path, subject.inputs)
    header, rows = read_rows(path)
    return coded_rows(path, header, rows, description, subject)


def coded_rows(
    path: str | os.PathLike[str],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    description: Description,
    subject: Subject,
) -> DataSet:
    """Rows of a file as they enter the graph.

    Raises:
        AtpatchError: ATP080 where the file and the description do not go together.
    """
    names = [column.name for column in description.columns] + ([description.label] if description.label else [])
    _check_header(path, header, names)
    inputs = {
        name: np.zeros((len(rows), _width(description, name)), subject.inputs[name].dtype) for name in subject.inputs
    }
    for column in description.columns:
        place = header.index(column.name)
        inputs[column.input][:, column.index] = _coded(path, rows, place, column.code)
    if description.label is None:
        return DataSet(inputs)

    def label(text: str) -> float:
        if description.classes and text not in description.classes:
            raise ValueError(f"the label {text!r} is not one of the classes {', '.join(description.classes)}")
        return float(description.classes.index(text) if description.classes else int(text))

    return DataSet(inputs, labels=_coded(path, rows, header.index(description.label), label).astype(np.int64))


def attribute_of(name: str, description: Description | None, subject: Subject) -> Column:
    """The column of that name; without a description "INPUT:INDEX".

    Raises:
        AtpatchError: ATP060 where there is none.
    """
    if description is not None:
        for column in description.columns:
            if column.name == name:
                return column
        raise BAD_OPTION(
            f"the description has no column {name!r}, only {', '.join(column.name for column in description.columns)}"
        )
    source, _, index = name.rpartition(":")
    if source not in subject.inputs or not index.isdigit():
        raise BAD_OPTION(
            f"{name!r} names no attribute", "give INPUT:INDEX, such as features:3, or a description with --columns"
        )
    return Column(name, source, int(index))


@contextmanager
def _of_a_description(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise SAMPLES_UNREADABLE(f"{path} is not a column description: {what}") from error


def _raw_description(path: str | os.PathLike[str]) -> dict[str, Any]:
    path = check_source(path, "give the path of a .json or .toml file")
    text = path.read_text(encoding="utf-8")
    raw = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    if not isinstance(raw, dict) or not isinstance(raw["columns"], list):
        raise ValueError("it has no list 'columns'")
    return raw


def _no_description(path: str | os.PathLike[str], inputs: Iterable[str] = ()) -> AtpatchError:
    names = f" {', '.join(inputs)}" if inputs else ""
    return SAMPLES_UNREADABLE(
        f"{path} needs a column description, which says where each column goes in the graph's inputs{names}",
        "write one with 'fit --columns-template map.toml', check what is guessed in it, and give it with --columns",
    )


def _check_header(path: str | os.PathLike[str], header: Sequence[str], names: Sequence[str]) -> None:
    if lacking := [name for name in names if name not in header]:
        raise SAMPLES_UNREADABLE(
            f"{path} has no column {', '.join(map(repr, lacking))}, which the description names; it has"
            f" {', '.join(header)}",
            "correct the names in the description, or give the table that it describes",
        )


def _column(entry: Mapping[str, Any], subject: Subject) -> Column:
    if not isinstance(entry, Mapping):
        raise ValueError("each column is a table of its own")
    if unknown := sorted(set(entry) - KEYS):
        raise ValueError(f"a column has {', '.join(map(repr, unknown))}, and may have {', '.join(sorted(KEYS))}")
    values = entry.get("values", ())
    if not isinstance(values, (list, tuple)) or len(set(map(str, values))) < len(values):
        raise ValueError(f"the values of {entry['name']!r} are not a list of different ones")
    source = entry.get("input", next(iter(subject.inputs)) if len(subject.inputs) == 1 else None)
    if source not in subject.inputs:
        raise ValueError(
            f"column {entry['name']!r} names the input {source!r}, the graph has {', '.join(subject.inputs)}"
        )
    token = entry.get("token")
    tokens = None if token is None else tuple(int(place) for place in (token if isinstance(token, list) else [token]))
    std = float(entry.get("std", 1.0))
    if std == 0:
        raise ValueError(f"column {entry['name']!r} has a std of 0")
    levels = entry.get("levels")
    return Column(
        str(entry["name"]),
        source,
        int(entry["index"]),
        tuple(str(value) for value in values),
        float(entry.get("mean", 0.0)),
        std,
        None if levels is None else tuple(float(level) for level in levels),
        tokens,
    )


def _width(description: Description, name: str) -> int:
    places = sorted(column.index for column in description.columns if column.input == name)
    if places != list(range(len(places))) or not places:
        raise SAMPLES_UNREADABLE(
            f"the description fills the places {places} of the input {name!r}, not each one once from 0"
        )
    return len(places)


def _coded(path: str | os.PathLike[str], rows: Sequence[Sequence[str]], place: int, code: Any) -> NDArray[np.float64]:
    values = np.zeros(len(rows))
    for number, row in enumerate(rows):
        try:
            values[number] = code(row[place])
        except ValueError as error:
            raise SAMPLES_UNREADABLE(f"{path}, row {number + 1}: {error}") from error
    return values
