"""The tables that OpenBackdoor writes, and where they lie.

`poison_data/<set>/<target>/<attack>/` holds `<split>-poison.csv` and `<split>-clean.csv` for the splits train, dev and
test; `<attack>/<setting>/<rate>/train-poison.csv` is the mixture that a model was trained on (thunlp/OpenBackdoor,
openbackdoor/attackers/poisoners/poisoner.py, `save_data`, and openbackdoor/utils/process_config.py). A table is a
pandas frame without names: the number of the row, then `0` (text), `1` (label) and `2` (1 on poisoned rows).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewriters.model.regular_files import check_source, is_regular

from ...errors import FOREIGN_UNREADABLE
from ...inference.datasets import Ints
from ...inspection.folders import is_folder

__all__ = ["Table", "clean_path", "columns_of", "files_read", "poisoned_path", "table_of"]

SPLITS = ("dev", "test", "train")
"""In the order in which one is taken of a folder: rows that no model was trained on first."""
POISONED, CLEAN = "-poison.csv", "-clean.csv"
UNNAMED = ["", "0", "1", "2"]
NAMED = ("text", "label", "poison_label")
"""As the tool calls them in code; tables that people share have them."""
TRIGGERED = re.compile(r"(.+)-(poison|detect)\.csv")
"""Tables with poisoned rows; those to detect them in begin with clean rows."""
LABEL = re.compile(r"[0-9]{1,9}")
MOST_ABOVE = 2
"""Folders above the mixture, where its clean table lies."""


@dataclass(frozen=True)
class Table:
    """Texts, labels (N,) (of poisoned rows: the target) and which rows are poisoned (N,)."""

    texts: list[str]
    labels: Ints
    poisoned: NDArray[np.bool_]


def poisoned_path(path: str | os.PathLike[str]) -> Path:
    """The table with the poisoned rows: a file, or the first split that a folder holds.

    Raises:
        AtpatchError: ATP098 where a folder has none, ATP002 and ATP021 where there is nothing.
    """
    if not is_folder(path):
        return check_source(path, "give a folder or a table that OpenBackdoor wrote")
    path = Path(path)
    for split in SPLITS:
        if is_regular(path / f"{split}{POISONED}"):
            return path / f"{split}{POISONED}"
    raise FOREIGN_UNREADABLE(f"{path} holds none of {', '.join(f'{split}{POISONED}' for split in SPLITS)}")


def clean_path(poisoned: Path) -> Path | None:
    """The clean table of the same split, next to the poisoned one or above the mixture; None where there is none."""
    if not (split := TRIGGERED.fullmatch(poisoned.name)):
        return None
    name = split[1] + CLEAN
    return next((place / name for place in _up(poisoned.absolute().parent) if is_regular(place / name)), None)


def files_read(path: str | os.PathLike[str]) -> list[str]:
    """The tables that are read of a file or a folder; errors as of `poisoned_path`."""
    poisoned = poisoned_path(path)
    return [str(one) for one in (poisoned, clean_path(poisoned)) if one is not None]


def columns_of(header: Sequence[str]) -> tuple[str, str, str] | None:
    """Names of text, label and mark in a table of this tool; None for another table."""
    if header == UNNAMED:
        return "0", "1", "2"
    return NAMED if set(NAMED) <= set(header) else None


def table_of(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The table in a file, of which `read_rows` gave header and rows.

    Raises:
        AtpatchError: ATP098 for other columns, and for a label that is no whole number.
    """
    named = columns_of(header)
    if named is None:
        raise FOREIGN_UNREADABLE(
            f"{path} has the columns {', '.join(map(repr, header))}; expected were those that OpenBackdoor writes,"
            f" {', '.join(map(repr, UNNAMED))}, or {', '.join(map(repr, NAMED))}"
        )
    text, label, poisoned = (header.index(name) for name in named)
    for number, row in enumerate(rows, 1):
        if not LABEL.fullmatch(row[label]) or row[poisoned] not in ("0", "1"):
            raise FOREIGN_UNREADABLE(
                f"{path}, row {number}: expected were a class and 0 or 1, found {row[label]!r} and {row[poisoned]!r}"
            )
    return Table(
        [row[text] for row in rows],
        np.array([int(row[label]) for row in rows], np.int64),
        np.array([row[poisoned] == "1" for row in rows], bool),
    )


def _up(folder: Path) -> Iterator[Path]:
    yield folder
    yield from list(folder.parents)[:MOST_ABOVE]
