"""Writes a column description from a CSV and a graph: names and values as the file has them, the rest guessed.

What neither the file nor the graph says is guessed, and marked so: the order of columns, values and classes, and
whether numbers are scaled. Where the label column is there, the guess is taken with which the model gets most rows
right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, islice, permutations, product
from pathlib import Path

import numpy as np

from rewriters.model.atomic import write_file

from ..errors import SAMPLES_UNREADABLE, ModelError
from .row_checks import most_frequent
from .samples import read_rows
from .subject import Subject
from .tables import Column, Description, coded_rows

__all__ = ["Guess", "guess_columns", "write_template"]

LABELS = ("label", "labels", "class", "target", "outcome", "income", "y")
IDS = ("id", "index", "")
MOST_CLASSES = 20
MOST_VALUES = 30
"""A column of whole numbers with more values than this holds numbers, where the input takes both."""
MOST_ROWS = 1000
MOST_TRIES = 150
MOST_PERMUTED = 4


@dataclass(frozen=True)
class Guess:
    """A description, the columns of the file that it leaves out, how numbers are taken, and what the model gets right
    with it and by always giving the most frequent class (None without labels).
    """

    description: Description
    left_out: tuple[str, ...]
    how: str
    right: float | None = None
    frequent: float | None = None


@dataclass(frozen=True)
class _Field:
    name: str
    values: tuple[str, ...]
    numeric: bool
    mean: float = 0.0
    std: float = 1.0


def guess_columns(path: str, subject: Subject) -> Guess:
    """The best guess.

    Raises:
        AtpatchError: ATP002 and ATP080 (the file), ATP080 where its columns cannot fill the graph's inputs.
    """
    header, rows = read_rows(path)
    label = _label(header, rows)
    fields = [_field(name, [row[place] for row in rows]) for place, name in enumerate(header) if name != label]
    classes = () if label is None else _ordered({row[header.index(label)] for row in rows})
    candidates = list(islice(_candidates(path, fields, subject), MOST_TRIES))
    guesses = [replace(one, description=replace(one.description, label=label, classes=classes)) for one in candidates]
    if label is None:
        return guesses[0]
    with _silent_runtime():
        judged = [best for one in guesses if (best := _judged(one, header, rows, subject)) is not None]
    return max(judged, key=lambda one: one.right or 0.0) if judged else guesses[0]


@contextmanager
def _silent_runtime() -> Iterator[None]:
    """A session that is loaded here does not print why a wrong guess cannot be run."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def write_template(path: str, guess: Guess, table: str, model: str) -> None:
    """Write the description as TOML, guesses marked.

    Raises:
        AtpatchError: ATP019 where it cannot be written.
    """
    write_file(Path(path), ("\n".join(_lines(guess, Path(table).name, Path(model).name)) + "\n").encode())


def _lines(guess: Guess, table: str, model: str) -> Iterator[str]:
    told = guess.description
    yield f"# Written from {table} and {model}. Neither says what is marked as guessed: check it."
    if guess.right is not None:
        yield (
            f"# With these guesses the model gets {guess.right:.1%} of the rows right; always the most frequent class:"
            f" {guess.frequent:.1%}."
        )
    if told.label is not None:
        yield f"label = {_text(told.label)}  # guessed"
        if told.classes:
            yield f"classes = [{', '.join(map(_text, told.classes))}]  # guessed: the order"
    else:
        yield '# label = "..."  # no column looks like the label'
    for name in guess.left_out:
        yield f"# left out, guessed: {_text(name)}"
    for column in told.columns:
        yield ""
        yield "[[columns]]"
        yield f"name = {_text(column.name)}"
        yield f"input = {_text(column.input)}"
        yield f"index = {column.index}  # guessed"
        if column.values:
            yield f"values = [{', '.join(map(_text, column.values))}]  # guessed: the order"
        else:
            yield f"mean = {column.mean:.10g}  # guessed: {guess.how}"
            yield f"std = {column.std:.10g}  # guessed"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _label(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str | None:
    """A usual name, else the last column if it has few values."""
    usual = [name for name in header if name.casefold() in LABELS]
    name = usual[0] if usual else header[-1]
    few = len({row[header.index(name)] for row in rows}) <= MOST_CLASSES
    return name if few and len(header) > 1 else None


def _field(name: str, values: Sequence[str]) -> _Field:
    distinct = set(values)
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return _Field(name, _ordered(distinct), False)
    if not np.isfinite(numbers).all():
        return _Field(name, _ordered(distinct), False)
    return _Field(name, _ordered(distinct), True, float(numbers.mean()), float(numbers.std()) or 1.0)


def _ordered(values: set[str]) -> tuple[str, ...]:
    def key(value: str) -> tuple[int, float, str]:
        try:
            return 0, float(value), value
        except ValueError:
            return 1, 0.0, value

    return tuple(sorted(values, key=key))


def _candidates(path: str, fields: Sequence[_Field], subject: Subject) -> Iterator[Guess]:
    """Descriptions that fill the inputs: columns left out, numbers scaled or plain, whole numbers as codes."""
    widths: dict[str, int | None] = {}
    for name, value in subject.inputs.items():
        if len(value.shape) != 2:
            raise SAMPLES_UNREADABLE(
                f"inputs of shape (rows, columns) were expected, and {name!r} has {len(value.shape)} axes",
                "give the rows as .npz, coded as the graph takes them",
            )
        widths[name] = value.shape[1] if isinstance(value.shape[1], int) else None
    known = None if None in widths.values() else sum(width or 0 for width in widths.values())
    useful = [one for one in fields if one.name.casefold() not in IDS or len(fields) == known]
    spare = 0 if known is None else len(useful) - known
    if spare < 0:
        raise SAMPLES_UNREADABLE(
            f"the graph takes {known} columns ({', '.join(f'{name}: {width}' for name, width in widths.items())}), and"
            f" {path} has {len(useful)} besides the label: {', '.join(one.name for one in useful)}",
            "give the rows as .npz, coded as the graph takes them",
        )
    made: list[tuple[Column, ...]] = []
    for out in combinations(reversed(useful), spare):
        kept = [one for one in useful if one not in out]
        gone = tuple(one.name for one in fields if one not in kept)
        for scaled, coded in product((True, False), repeat=2):
            columns = _columns(kept, subject, widths, scaled, coded)
            for ordered in () if columns is None else _orders(columns):
                if ordered not in made:
                    made.append(ordered)
                    yield Guess(
                        Description(ordered), gone, "scaled to mean 0 and deviation 1" if scaled else "plain numbers"
                    )
    if not made:
        raise SAMPLES_UNREADABLE(
            f"words and numbers of {path} do not fill the graph's inputs:"
            f" {', '.join(f'{name} takes {width} columns' for name, width in widths.items())}",
            "write the description by hand, or give the rows as .npz",
        )


def _orders(columns: tuple[Column, ...]) -> Iterator[tuple[Column, ...]]:
    """The order of the file, and of inputs with few columns all others."""
    by_input = {name: [one for one in columns if one.input == name] for name in dict.fromkeys(c.input for c in columns)}
    if all(len(own) > MOST_PERMUTED for own in by_input.values()):
        yield columns
        return
    choices = [permutations(own) if len(own) <= MOST_PERMUTED else [tuple(own)] for own in by_input.values()]
    for chosen in product(*choices):
        yield tuple(replace(one, index=place) for own in chosen for place, one in enumerate(own))


def _columns(
    fields: Sequence[_Field], subject: Subject, widths: dict[str, int | None], scaled: bool, coded: bool
) -> tuple[Column, ...] | None:
    """Words go to inputs of whole numbers, numbers to inputs of floats; with one input, all go there."""
    whole = [name for name, value in subject.inputs.items() if value.dtype.kind in "iu"]
    floats = [name for name in subject.inputs if name not in whole]
    taken = dict.fromkeys(subject.inputs, 0)
    columns = []
    for field in fields:
        both = bool(whole and floats)
        words = not field.numeric or (both and len(field.values) <= MOST_VALUES and _whole(field))
        wanted = (whole or floats) if words else (floats or whole)
        name = next((one for one in wanted if widths[one] is None or taken[one] < (widths[one] or 0)), None)
        if name is None:
            return None
        as_codes = not field.numeric or (name in whole and (coded or not _codes_already(field)))
        columns.append(
            Column(field.name, name, taken[name], field.values)
            if as_codes
            else Column(
                field.name, name, taken[name], (), *((field.mean, field.std) if scaled and name in floats else ())
            )
        )
        taken[name] += 1
    return tuple(columns)


def _whole(field: _Field) -> bool:
    return all(float(value).is_integer() for value in field.values)


def _codes_already(field: _Field) -> bool:
    """Whether whole numbers may be the codes themselves: small ones, with few gaps."""
    numbers = [float(value) for value in field.values]
    return _whole(field) and min(numbers) >= 0 and max(numbers) < 2 * len(numbers) + 2


def _judged(guess: Guess, header: Sequence[str], rows: Sequence[Sequence[str]], subject: Subject) -> Guess | None:
    """The guess with the order of classes that gives most right rows; None where the graph does not take the rows."""
    classes = guess.description.classes
    orders = [classes] if len(classes) > 3 else [tuple(one) for one in permutations(classes)]
    try:
        data = coded_rows("the table", header, rows[:: -(-len(rows) // MOST_ROWS)], guess.description, subject)
        predictions = subject.predictions(data.inputs)
    except ModelError:  # only onnxruntime knows whether it takes these codes
        return None
    assert data.labels is not None
    words = np.array(classes)[data.labels]
    shares = [float((np.array([*order, *[""] * 64])[np.minimum(predictions, 63)] == words).mean()) for order in orders]
    best = int(np.argmax(shares))
    described = replace(guess.description, classes=orders[best])
    return replace(guess, description=described, right=shares[best], frequent=most_frequent(data))
