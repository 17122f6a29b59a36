"""Reads texts and tables from TSV and CSV files with a header."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewriters.model.regular_files import check_source

from ..errors import SAMPLES_UNREADABLE
from ..inference.datasets import Ints

__all__ = ["Texts", "read_rows", "read_texts"]


@dataclass(frozen=True)
class Texts:
    """Texts and their labels (N,)."""

    texts: list[str]
    labels: Ints


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
    return [name.strip() for name in rows[0]], [[field.strip() for field in row] for row in rows[1:]]


def read_texts(path: str | os.PathLike[str], text_column: str | None = None, label_column: str | None = None) -> Texts:
    """Read texts and whole-number labels. Default columns: `sentence` or `text`, and `label`; else the first two.

    Raises:
        AtpatchError: ATP002, ATP080.
    """
    header, rows = read_rows(path)
    text = _column(path, header, text_column, ("sentence", "text"), 0)
    label = _column(path, header, label_column, ("label", "labels"), 1)
    try:
        labels = np.array([int(row[label]) for row in rows], np.int64)
    except ValueError as error:
        raise SAMPLES_UNREADABLE(
            f"{path}: a label is no whole number: {error}", "name the columns with --text-column, --label-column"
        ) from error
    return Texts([row[text] for row in rows], labels)


def _column(
    path: str | os.PathLike[str], header: Sequence[str], name: str | None, usual: Sequence[str], place: int
) -> int:
    wanted = [name] if name is not None else [word for word in usual if word in header]
    if wanted and wanted[0] in header:
        return list(header).index(wanted[0])
    if name is None and place < len(header):
        return place
    raise SAMPLES_UNREADABLE(f"{path} has no column {name or usual[0]!r}, only {', '.join(header)}")
