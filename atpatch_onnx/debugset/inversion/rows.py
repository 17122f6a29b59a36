"""Rows of tokens, into which a trigger can be inserted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...inference.datasets import Ints
from ..subject import Subject
from ..text import token_input

__all__ = ["TokenRows", "token_rows"]


@dataclass(frozen=True)
class TokenRows:
    """Token rows of one length L, padded on the right.

    Attributes:
        name: the graph input of the token ids.
        ids: (N, L); real: (N, L), which are no padding.
        others: further graph inputs (N, L); masks follow `real`, the rest is kept as it is.
        prefix, suffix: numbers of special tokens at the two ends of a row; a trigger goes between them.
        fixed: the graph only takes this length; a trigger then pushes the last tokens out.
    """

    name: str
    ids: NDArray[np.int64]
    real: NDArray[np.bool_]
    others: Mapping[str, NDArray[Any]]
    prefix: int
    suffix: int
    pad: int
    fixed: bool

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Ints:
        """(N,) tokens of each row."""
        return np.asarray(self.real.sum(1), np.int64)

    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """Graph inputs, cut to the longest row where the graph allows."""
        longest = self.ids.shape[1] if self.fixed else int(self.lengths.max())
        arrays = {
            name: self.real.astype(array.dtype) if "mask" in name else array for name, array in self.others.items()
        }
        return {name: array[:, :longest] for name, array in {self.name: self.ids, **arrays}.items()}

    def take(self, rows: Ints) -> TokenRows:
        """Some of the rows."""
        others = {name: array[rows] for name, array in self.others.items()}
        return replace(self, ids=self.ids[rows], real=self.real[rows], others=others)

    def places(self, generator: np.random.Generator) -> Ints:
        """(N,) random places between the special tokens."""
        return np.asarray(
            generator.integers(self.prefix, np.maximum(self.lengths - self.suffix, self.prefix) + 1), np.int64
        )

    def insert(self, tokens: NDArray[np.int64], places: Ints) -> tuple[TokenRows, NDArray[np.bool_]]:
        """Insert tokens (N, T) at places (N,). Returns the rows, T longer or without their last tokens, and the columns
        (N, L') of the inserted tokens.
        """
        count, extra = tokens.shape
        width = self.ids.shape[1] + (0 if self.fixed else extra)
        ids, real = np.full((count, width), self.pad, np.int64), np.zeros((count, width), bool)
        columns = np.zeros((count, width), bool)
        for row, (place, length) in enumerate(zip(places, self.lengths, strict=True)):
            place = min(int(place), width - extra - self.suffix)
            end = length - self.suffix
            content = np.concatenate([self.ids[row, :place], tokens[row], self.ids[row, place:end]])[
                : width - self.suffix
            ]
            line = np.concatenate([content, self.ids[row, end:length]])
            ids[row, : len(line)], real[row, : len(line)] = line, True
            columns[row, place : place + extra] = True
        others = {
            name: np.pad(array, ((0, 0), (0, width - array.shape[1])), mode="edge")
            for name, array in self.others.items()
        }
        return replace(self, ids=ids, real=real, others=others), columns


def token_rows(subject: Subject, inputs: Mapping[str, NDArray[Any]]) -> TokenRows:
    """Rows from graph inputs; special tokens are those that all rows have in common at their start and end."""
    name = token_input(subject)
    ids = np.asarray(inputs[name], np.int64)
    others = {other: array for other, array in inputs.items() if other != name}
    mask = next((array for other, array in others.items() if "mask" in other), None)
    real = np.ones(ids.shape, bool) if mask is None else np.asarray(mask) != 0
    lengths = real.sum(1)
    shortest = int(lengths.min())
    prefix = 0
    while prefix < shortest - 1 and len(np.unique(ids[:, prefix])) == 1:
        prefix += 1
    suffix = 0
    while suffix < shortest - prefix - 1 and len(np.unique(ids[np.arange(len(ids)), lengths - 1 - suffix])) == 1:
        suffix += 1
    padding = ids[~real]
    pad = int(padding[0]) if len(padding) else 0
    return TokenRows(name, ids, real, others, prefix, suffix, pad, isinstance(subject.inputs[name].shape[1], int))
