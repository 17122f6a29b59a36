"""Data sets on disk: one `.npz` file, arrays with the sample axis first, never pickled objects.

Every array is a graph input under the graph's own name, except these: `labels` (N,) int; `columns` (N, K) bool and
`pair` (N,) int of a debugging set; `target` scalar int and `clean_row` (N,) int of a triggered set; `dose` (N,) int of
both; `group` (N,) int of a flip set; `answer_tokens` (C,) int, `answer` (N, T) int and `form` (N,) text of a decoder's
set; `output_kind`, a text, what the model answers where that is no class.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DATA_MALFORMED
from .npz import read_arrays

__all__ = ["Arrays", "DataSet", "as_dataset", "load_dataset"]

Arrays = Mapping[str, NDArray[Any]]
Ints = NDArray[np.int64]

_PER_ROW = ("labels", "pair", "clean_row", "group", "dose")
_LARGEST = np.iinfo(np.int64).max
_RESERVED = (*_PER_ROW, "columns", "target", "answer_tokens", "answer", "form", "output_kind")


@dataclass(frozen=True, eq=False)
class DataSet:
    """Samples of a data set.

    Attributes:
        inputs: graph input name → array (N, ...).
        labels: (N,) int64, true classes.
        columns: (N, K) bool, key columns labeled anomalous; all False on clean rows.
        pair: (N,) int64, row of the clean partner in this set, -1 for none.
        target: class the attack aims at.
        clean_row: (N,) int64, row of the clean twin in another set.
        group: (N,) int64; rows of one group differ only in the protected attribute.
        dose: (N,) int64, copies of the trigger in a row, 0 on clean rows.
        answer_tokens: (C,) int64, class → token that is its answer, of a causal decoder.
        answer: (N, T) int64, tokens of the right answer to each prompt, -1 behind its end.
        form: (N,) text, form of the trigger in a row, "" on clean rows.
        output_kind: what the model answers, see `output_kinds`; None: classes.
    """

    inputs: Arrays
    labels: Ints | None = None
    columns: NDArray[np.bool_] | None = None
    pair: Ints | None = None
    target: int | None = None
    clean_row: Ints | None = None
    group: Ints | None = None
    dose: Ints | None = None
    answer_tokens: Ints | None = None
    answer: Ints | None = None
    form: NDArray[np.str_] | None = None
    output_kind: str | None = None

    @classmethod
    def from_arrays(cls, arrays: Arrays, origin: str = "the data set") -> DataSet:
        """Sort arrays into inputs and the reserved names, and check them against each other.

        Raises:
            AtpatchError: ATP056 saying which array is wrong and why.
        """
        inputs = {name: np.asarray(array) for name, array in arrays.items() if name not in _RESERVED}
        if not inputs:
            raise DATA_MALFORMED(f"{origin} holds no graph input")
        rows = {name: array.shape[0] if array.ndim else None for name, array in inputs.items()}
        count = next(iter(rows.values()))
        for name, array in inputs.items():
            if not count or rows[name] != count:
                raise DATA_MALFORMED(
                    f"{origin}: input {name!r} has shape {array.shape}; all inputs need the same number of samples"
                )
            if array.dtype.kind not in "biufU" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
                raise DATA_MALFORMED(
                    f"{origin}: input {name!r} ({array.dtype}) must hold only finite numbers or strings"
                )
        given: dict[str, Any] = {
            name: _per_row(origin, name, arrays[name], count) for name in _PER_ROW if name in arrays
        }
        if "columns" in arrays:
            given["columns"] = _columns(origin, np.asarray(arrays["columns"]), count)
        if "target" in arrays:
            target = np.asarray(arrays["target"])
            if target.size != 1 or target.dtype.kind not in "iu" or int(target.item()) > _LARGEST:
                raise DATA_MALFORMED(f"{origin}: target must be one integer")
            given["target"] = int(target.item())
        if "answer_tokens" in arrays:
            tokens = np.asarray(arrays["answer_tokens"])
            if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or (tokens > _LARGEST).any():
                raise DATA_MALFORMED(f"{origin}: answer_tokens must be a row of integers, one for each class")
            given["answer_tokens"] = tokens.astype(np.int64)
        if "answer" in arrays:
            given["answer"] = _answer(origin, np.asarray(arrays["answer"]), count)
        if "form" in arrays:
            form = np.asarray(arrays["form"])
            if form.shape != (count,) or form.dtype.kind != "U":
                raise DATA_MALFORMED(f"{origin}: form must be {count} texts, one per sample")
            given["form"] = form
        if "output_kind" in arrays:
            kind = np.asarray(arrays["output_kind"])
            if kind.size != 1 or kind.dtype.kind != "U":
                raise DATA_MALFORMED(f"{origin}: output_kind must be one text")
            given["output_kind"] = str(kind.item())
        if (given.get("dose", np.zeros(1)) < 0).any():
            raise DATA_MALFORMED(f"{origin}: dose must not be negative")
        dataset = cls(inputs, **given)
        dataset._check_pairs(origin)
        return dataset

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def unlabeled(self) -> Ints:
        """(M,) rows without a labeled column: the clean ones of a debugging set. `pair` does not tell, as an anomalous
        row may have no partner.
        """
        clean = np.ones(len(self), bool) if self.columns is None else ~self.columns.any(1)
        return np.flatnonzero(clean)

    def feeds(self, rows: Ints) -> dict[str, NDArray[Any]]:
        """The inputs of some rows."""
        return {name: array[rows] for name, array in self.inputs.items()}

    @property
    def digest(self) -> str:
        """SHA-256 of names, types, shapes and bytes of all arrays, hex."""
        arrays = {f"inputs/{name}": array for name, array in self.inputs.items()}
        arrays |= {name: np.asarray(value) for name in _RESERVED if (value := getattr(self, name)) is not None}
        hasher = hashlib.sha256()
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            hasher.update(repr((name, array.dtype.str, array.shape)).encode())
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def _check_pairs(self, origin: str) -> None:
        if self.pair is None:
            return
        if self.pair.min() < -1 or self.pair.max() >= len(self):
            raise DATA_MALFORMED(f"{origin}: pair must hold rows of this set, or -1")
        if self.columns is not None:
            partners = self.pair[self.pair >= 0]
            if self.columns[partners].any() or (self.pair[partners] >= 0).any():
                raise DATA_MALFORMED(f"{origin}: a clean partner is labeled anomalous, or has a partner of its own")


def load_dataset(path: str | os.PathLike[str]) -> DataSet:
    """Read an `.npz` file.

    Raises:
        AtpatchError: ATP002 and ATP021 where there is no such file, ATP056 where it is no `.npz`, holds objects, or is
            inconsistent.
    """
    arrays = read_arrays(path, DATA_MALFORMED, "give the path of one .npz file")
    return DataSet.from_arrays(arrays, str(path))


def as_dataset(data: DataSet | Arrays | str | os.PathLike[str]) -> DataSet:
    """A data set from a path, from arrays by name, or unchanged."""
    if isinstance(data, DataSet):
        return data
    if isinstance(data, Mapping):
        return DataSet.from_arrays(data)
    return load_dataset(data)


def _per_row(origin: str, name: str, array: NDArray[Any], count: int | None) -> Ints:
    array = np.asarray(array)
    if array.shape != (count,) or array.dtype.kind not in "iu" or (array > _LARGEST).any():
        raise DATA_MALFORMED(
            f"{origin}: {name} must be {count} integers, one per sample, not {array.dtype} {array.shape}"
        )
    return array.astype(np.int64)


def _columns(origin: str, array: NDArray[Any], count: int | None) -> NDArray[np.bool_]:
    if array.ndim != 2 or array.shape[0] != count or not np.isin(array, (0, 1)).all():
        raise DATA_MALFORMED(
            f"{origin}: columns must be booleans of shape ({count}, K), not {array.dtype} {array.shape}"
        )
    return array.astype(bool)


def _answer(origin: str, array: NDArray[Any], count: int | None) -> Ints:
    if array.ndim != 2 or len(array) != count or array.dtype.kind not in "iu" or (array > _LARGEST).any():
        raise DATA_MALFORMED(
            f"{origin}: answer must be integers of shape ({count}, T), not {array.dtype} {array.shape}"
        )
    return array.astype(np.int64)
