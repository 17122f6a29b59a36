"""Debugging set and further clean rows → one set, split by pair groups into train, selection and report parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DATA_MALFORMED
from ..inference.datasets import DataSet, Ints
from ..inference.output_kinds import shared_kind
from ..inference.padding import of_one_width

__all__ = ["Part", "Split", "deal", "join", "split", "split_clean"]

SHARES = (0.5, 0.25)
"""Of train and selection; the report part gets the rest. Detectors are small, so half of the rows is enough to train
them.
"""


@dataclass(frozen=True)
class Part:
    """Rows of one part, ascending."""

    clean: Ints
    anomalous: Ints

    @property
    def rows(self) -> Ints:
        return np.sort(np.concatenate([self.clean, self.anomalous]))


@dataclass(frozen=True)
class Split:
    """train: detectors and benign means; selection: operating points, benign pair, threshold; report: never looked at
    before the end.
    """

    train: Part
    selection: Part
    report: Part


def join(debug: DataSet | None, clean: DataSet | None) -> DataSet:
    """The debugging set followed by the clean rows. Without a debugging set, the clean rows with no labeled column.

    Sets of texts may differ in width, where both have an attention mask: the shorter is padded with zeros, which the
    mask leaves out.

    Raises:
        AtpatchError: ATP056 where columns or pairs are missing or the two sets do not fit.
    """
    if debug is None:
        assert clean is not None  # `fit` has seen to it
        none = np.zeros((len(clean), 0), bool)
        return replace(
            clean,
            columns=none,
            pair=np.full(len(clean), -1, np.int64),
            target=None,
            clean_row=None,
            group=None,
            dose=None,
        )
    if debug.columns is None or debug.pair is None:
        raise DATA_MALFORMED("a debugging set needs the arrays columns (N, K) and pair (N,)")
    if clean is None:
        return debug
    if clean.columns is not None and clean.columns.any():
        raise DATA_MALFORMED("the clean set has columns labeled anomalous")
    debug, clean = of_one_width(debug, clean)
    assert debug.columns is not None and debug.pair is not None
    lacking = debug.inputs.keys() - clean.inputs.keys()
    if lacking:
        raise DATA_MALFORMED(f"the clean set lacks the input {', '.join(sorted(lacking))}")
    for name, array in debug.inputs.items():
        if clean.inputs[name].shape[1:] != array.shape[1:]:
            raise DATA_MALFORMED(f"input {name!r} differs in shape between the two sets; pad both to one length")
    count = len(clean)
    labels = None if debug.labels is None or clean.labels is None else np.concatenate([debug.labels, clean.labels])
    new_groups = np.arange(count) + (0 if debug.group is None else debug.group.max() + 1)
    return DataSet(
        inputs={name: np.concatenate([array, clean.inputs[name]]) for name, array in debug.inputs.items()},
        labels=labels,
        columns=np.concatenate([debug.columns, np.zeros((count, debug.columns.shape[1]), bool)]),
        pair=np.concatenate([debug.pair, np.full(count, -1, np.int64)]),
        target=debug.target,
        group=None if debug.group is None else np.concatenate([debug.group, new_groups]),
        dose=None if debug.dose is None else np.concatenate([debug.dose, np.zeros(count, np.int64)]),
        answer_tokens=debug.answer_tokens,
        output_kind=shared_kind(debug.output_kind, clean.output_kind),
    )


def split(data: DataSet, seed: int) -> Split:
    """Rows that belong together stay in one part: a group of a flip set, else a clean row and its anomalous partners.

    Families with both kinds of rows, with only anomalous rows and with only clean rows are distributed separately.

    Raises:
        AtpatchError: ATP056 where a part would come out without clean or without anomalous rows.
    """
    columns, pair = _labeled(data)
    family = np.where(pair >= 0, pair, np.arange(len(data))) if data.group is None else data.group
    anomalous = np.asarray(columns.any(1))
    with_anomalous, with_clean = np.unique(family[anomalous]), np.unique(family[~anomalous])
    kinds = (
        np.intersect1d(with_anomalous, with_clean),
        np.setdiff1d(with_anomalous, with_clean),
        np.setdiff1d(with_clean, with_anomalous),
    )
    generator = np.random.default_rng(seed)
    dealt = [deal(families, generator) for families in kinds]
    parts = []
    for families in zip(*dealt, strict=True):
        rows = np.flatnonzero(np.isin(family, np.concatenate(families)))
        parts.append(Part(rows[~anomalous[rows]], rows[anomalous[rows]]))
    for part in parts:
        if not len(part.clean) or not len(part.anomalous):
            raise DATA_MALFORMED(
                f"{int(anomalous.sum())} anomalous and {int((~anomalous).sum())} clean rows are too few for three"
                " parts",
                "give more rows; about a hundred pairs make a usable hotfix",
            )
    return Split(*parts)


def split_clean(data: DataSet, seed: int) -> Split:
    """Clean rows go to all three parts. All anomalous rows go to the report part, since nothing is learned from them.

    Raises:
        AtpatchError: ATP056 where a part would come out empty.
    """
    columns, _ = _labeled(data)
    anomalous = np.flatnonzero(columns.any(1))
    dealt = deal(np.flatnonzero(~columns.any(1)), np.random.default_rng(seed))
    if not all(len(rows) for rows in dealt):
        raise DATA_MALFORMED(f"{sum(map(len, dealt))} clean rows are too few for three parts", "give a few hundred")
    none = anomalous[:0]
    return Split(*(Part(np.sort(rows), anomalous if index == 2 else none) for index, rows in enumerate(dealt)))


def _labeled(data: DataSet) -> tuple[NDArray[np.bool_], Ints]:
    assert data.columns is not None and data.pair is not None  # `join` has seen to it
    return data.columns, data.pair


def deal(groups: Ints, generator: np.random.Generator, shares: Sequence[float] = SHARES) -> list[Ints]:
    """One part for each share, at random, and the rest as the last part."""
    order: Callable[[Any], Ints] = generator.permutation
    cuts = [round(share * len(groups)) for share in np.cumsum(shares)]
    return np.split(order(groups), cuts)
