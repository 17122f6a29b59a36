"""Reads texts and tables from TSV and CSV files with a header."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rewriters.model.regular_files import check_source, is_regular

from ..errors import SAMPLES_UNREADABLE
from ..inference.datasets import Ints

__all__ = ["Texts", "class_names", "read_rows", "read_texts"]


@dataclass(frozen=True)
class Texts:
    """Texts and their labels (N,), None where the file has none."""

    texts: list[str]
    labels: Ints | None


def read_rows(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV (commas, quotes) or a TSV (tabs, nothing quoted).

    Raises:
        AtpatchError: ATP002 where there is no such file, ATP080 where it is not such a table.
    """
    path = check_source(path, "give the path of one .tsv or .csv file")
    tabs = path.suffix.lower() in (".tsv", ".tab")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [line.rstrip("\r\n").split("\t") for line in file] if tabs else list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SAMPLES_UNREADABLE(f"{path} cannot be read: {error}") from error
    rows = [row for row in rows if row and row != [""]]
    if len(rows) < 2:
        raise SAMPLES_UNREADABLE(f"{path} has no row below its header")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise SAMPLES_UNREADABLE(f"{path}: row {number} has {len(row)} fields, the header has {len(rows[0])}")
    header = [name.strip() for name in rows[0]]
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise SAMPLES_UNREADABLE(f"{path}: the header has {', '.join(map(repr, twice))} twice")
    return header, [[field.strip() for field in row] for row in rows[1:]]


def read_texts(
    path: str | os.PathLike[str],
    text_column: str | None = None,
    label_column: str | None = None,
    classes: Sequence[str] = (),
    labeled: bool = True,
) -> Texts:
    """Read texts and labels. Default columns: `sentence` or `text`, and `label`; else the first two. A file with only
    one column has no labels.

    Args:
        classes: names of the classes in order, for labels that are not numbers.
        labeled: False: labels are not needed, and not read.

    Raises:
        AtpatchError: ATP002, ATP080.
    """
    header, rows = read_rows(path)
    text = _column(path, header, text_column, ("sentence", "text"), 0)
    if not labeled or (label_column is None and len(header) == 1):
        return Texts([row[text] for row in rows], None)
    label = _column(path, header, label_column, ("label", "labels"), 1)
    names = {name.casefold(): number for number, name in enumerate(classes)}
    labels = []
    for number, row in enumerate(rows, 1):
        word = row[label]
        found = int(word) if word.removeprefix("-").isdecimal() else names.get(word.casefold())
        if found is None:
            known = f"one of the classes {', '.join(classes)}" if classes else "a whole number"
            raise SAMPLES_UNREADABLE(
                f"{path}, row {number}: the label {word!r} is not {known}",
                "give the names of the classes in order with --class-names, or the columns with --text-column and"
                " --label-column",
            )
        labels.append(found)
    return Texts([row[text] for row in rows], np.array(labels, np.int64))


def class_names(given: str | None, *folders: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """Names of the classes in order: those given, separated by commas, else `id2label` of the first `config.json` in
    one of the folders; empty where nothing names them.

    Raises:
        AtpatchError: ATP080 where a `config.json` cannot be read.
    """
    if given is not None:
        return tuple(name.strip() for name in given.split(","))
    for folder in folders:
        path = None if folder is None else Path(folder) / "config.json"
        if path is None or not is_regular(path):
            continue
        try:
            named = json.loads(path.read_text(encoding="utf-8")).get("id2label") or {}
            by_number = {int(number): str(name) for number, name in named.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise SAMPLES_UNREADABLE(f"{path} cannot be read: {error}", "give --class-names") from error
        if sorted(by_number) == list(range(len(by_number))) and by_number:
            return tuple(by_number[number] for number in range(len(by_number)))
    return ()


def _column(
    path: str | os.PathLike[str], header: Sequence[str], name: str | None, usual: Sequence[str], place: int
) -> int:
    wanted = [name] if name is not None else [word for word in usual if word in header]
    if wanted and wanted[0] in header:
        return list(header).index(wanted[0])
    if name is None and place < len(header):
        return place
    raise SAMPLES_UNREADABLE(f"{path} has no column {name or usual[0]!r}, only {', '.join(header)}")
