"""Attribute flips: rows whose prediction changes when only the protected attribute does (AtPatch, eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION, COLUMNS_UNCLEAR, NOTHING_FOUND
from ..inference.datasets import DataSet, Ints
from .sets import Built
from .subject import Subject
from .tables import Column

__all__ = ["PROBES", "build_flips", "flip_set", "with_value"]

PROBES = 16
"""Rows of the search for the columns that a value moves."""


def build_flips(subject: Subject, data: DataSet, attribute: Column) -> Built:
    """Debugging set and flip set of a protected attribute.

    Every row x is tried with every other value. Where the prediction flips, x' is anomalous, and so is x: it depends
    on the attribute as much as its twin does, and the two only agree again when both are repaired. "Clean" are only
    the rows whose prediction no value changes. The clean partner of a row is the clean row with the same protected
    value and the smallest Hamming distance in all other places. `group` of the debugging set holds the row x that each
    row was made from, for UF.

    Raises:
        AtpatchError: ATP060 (attribute), ATP083 (nothing flips), ATP084 (columns).
    """
    clean = subject.complete(data)
    subject.rank_among(clean)
    values = _values(clean, attribute)
    count, source = len(clean), clean.inputs[attribute.input]
    variants = [with_value(clean.inputs, attribute, value) for value in values]
    predictions = np.stack([subject.predictions(inputs) for inputs in variants], 1)
    original = subject.predictions(clean.inputs)
    own = source[:, attribute.index]
    other = values[None, :] != own[:, None]
    flips = other & (predictions != original[:, None])
    unfair = flips.any(1)
    if unfair.all():
        raise NOTHING_FOUND(
            f"every prediction changes with {attribute.name!r}: no row is left to be clean",
            "try fewer values, or values closer together",
        )
    if not unfair.any():
        raise NOTHING_FOUND(f"no prediction of {count} rows changes with {attribute.name!r}")
    columns = _columns(subject, clean.inputs, variants, attribute)
    made_from, which = np.nonzero(flips)
    stable = np.flatnonzero(~unfair)
    rows = np.concatenate([np.flatnonzero(unfair), made_from])
    taken = np.concatenate([own[unfair], values[which]])
    partner = _partners(clean.inputs, attribute, values, rows, taken, stable)
    debug = _debugging_set(clean, attribute, rows, taken, stable, partner, columns)
    report: dict[str, Any] = {
        "attribute": attribute.name,
        "values": len(values),
        "clean": len(stable),
        "anomalous": len(rows),
        "unpaired": int((partner < 0).sum()),
        "uf": {"hits": int(unfair.sum()), "count": count},
        "flips_to": _flips_to(attribute, values, flips),
        "covered": np.flatnonzero(columns).tolist(),
    }
    return Built(debug, None, flip_set(clean, attribute), None, report)


def _flips_to(attribute: Column, values: NDArray[Any], flips: NDArray[np.bool_]) -> dict[str, int]:
    """Value → number of rows that flip with it; only values that flip any row."""
    return {
        attribute.word(float(value)): int(flipped.sum())
        for value, flipped in zip(values, flips.T, strict=True)
        if flipped.any()
    }


def with_value(inputs: Mapping[str, NDArray[Any]], attribute: Column, value: Any) -> dict[str, NDArray[Any]]:
    """The rows with another value, or values, of the attribute."""
    changed = inputs[attribute.input].copy()
    changed[:, attribute.index] = value
    return {**inputs, attribute.input: changed}


def _columns(
    subject: Subject, inputs: Mapping[str, NDArray[Any]], variants: list[dict[str, NDArray[Any]]], attribute: Column
) -> NDArray[np.bool_]:
    first = {name: array[:PROBES] for name, array in inputs.items()}
    moved = [
        subject.touched(first, {name: array[:PROBES] for name, array in variant.items()}).any(0) for variant in variants
    ]
    found = np.asarray(np.any(moved, 0))
    if attribute.tokens is not None:
        if any(not 0 <= token < len(found) for token in attribute.tokens):
            raise BAD_OPTION(
                f"{attribute.name!r} is said to be token {attribute.tokens}, the maps have {len(found)} columns"
            )
        found[:] = False
        found[list(attribute.tokens)] = True
    elif found.all() or not found.any():
        raise COLUMNS_UNCLEAR(
            f"{'every' if found.any() else 'no'} column of the first site moves with {attribute.name!r}"
        )
    return found


def _partners(
    inputs: Mapping[str, NDArray[Any]],
    attribute: Column,
    levels: NDArray[Any],
    rows: Ints,
    taken: NDArray[Any],
    stable: Ints,
) -> Ints:
    """(M,): position in `stable` of the nearest row with the same protected value (for numbers: at the same level); -1
    where there is none.
    """

    def level(values: NDArray[Any]) -> Ints:
        return np.asarray(np.abs(levels[None, :] - values[:, None]).argmin(1), np.int64)

    flat = []
    for name, array in inputs.items():
        keep = np.ones(array.shape[1], bool) if array.ndim == 2 else None
        if name == attribute.input and keep is not None:
            keep[attribute.index] = False
        flat.append(array.reshape(len(array), -1) if keep is None else array[:, keep])
    own = level(inputs[attribute.input][stable, attribute.index])
    found = np.full(len(rows), -1, np.int64)
    for number, (row, value) in enumerate(zip(rows, level(taken), strict=True)):
        same = np.flatnonzero(own == value)
        if len(same):
            distance = sum((part[stable[same]] != part[row]).sum(1) for part in flat)
            found[number] = same[int(np.argmin(distance))]
    return found


def _debugging_set(
    clean: DataSet,
    attribute: Column,
    rows: Ints,
    values: NDArray[Any],
    stable: Ints,
    partner: Ints,
    columns: NDArray[np.bool_],
) -> dict[str, NDArray[Any]]:
    changed = with_value(clean.feeds(rows), attribute, values)
    labels = {} if clean.labels is None else {"labels": clean.labels[np.concatenate([stable, rows])]}
    marked = np.zeros((len(stable) + len(rows), len(columns)), bool)
    marked[len(stable) :] = columns
    return {
        **{name: np.concatenate([array[stable], changed[name]]) for name, array in clean.inputs.items()},
        **labels,
        "columns": marked,
        "pair": np.concatenate([np.full(len(stable), -1, np.int64), partner]),
        "group": np.concatenate([stable, rows]),
    }


def _values(clean: DataSet, attribute: Column) -> NDArray[Any]:
    """All values to try."""
    source = clean.inputs[attribute.input]
    if source.ndim != 2 or not 0 <= attribute.index < source.shape[1]:
        raise BAD_OPTION(
            f"input {attribute.input!r} has shape {source.shape}, there is no place {attribute.index} in its rows"
        )
    values = attribute.alternatives(clean)
    if len(values) < 2:
        raise BAD_OPTION(f"{attribute.name!r} has only one value", "list the values to try in the column description")
    return values


def flip_set(clean: DataSet, attribute: Column) -> dict[str, NDArray[Any]]:
    """Every row as it is and with every other value; the rows of one group follow each other.

    Raises:
        AtpatchError: ATP060 (attribute).
    """
    values = _values(clean, attribute)
    group, value = np.nonzero(values[None, :] != clean.inputs[attribute.input][:, attribute.index][:, None])
    everyone = np.arange(len(clean))
    rows = np.concatenate([everyone, group])
    changed = with_value(clean.feeds(group), attribute, values[value])
    order = np.argsort(rows, kind="stable")
    labels = {} if clean.labels is None else {"labels": clean.labels[rows[order]]}
    inputs = {name: np.concatenate([array, changed[name]])[order] for name, array in clean.inputs.items()}
    return {**inputs, **labels, "group": rows[order]}
