"""What `fit` and `compare` take in place of sets: texts and a trigger, or a table and a protected attribute.

The sets are those of `debugset`, made by the same code. For `fit` every text gets the trigger in several forms; for
`compare` it gets the trigger as it is, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION, ModelError
from ..inference.datasets import Arrays, DataSet
from ..inference.output_kinds import CLASSES, ScoreThreshold, kind_of
from ..inspection.model_files import tokenizer_next_to
from .flips import PROBES, build_flips, flip_set, with_value
from .making import Progress, Request, build
from .row_checks import check_labels, most_frequent
from .samples import class_names
from .sets import Built, clean_arrays
from .subject import Subject
from .tables import Column, Description, attribute_of, read_description, read_table
from .target import class_number

__all__ = ["Judged", "Source", "ToFit", "sets_to_compare", "sets_to_fit"]

MOST_GROUPS = 50
"""Of an attribute with more values there are no groups to compare."""
MOST_COLUMNS = 64
"""Of the search for tokens."""
FEWEST = 30
"""Rows that a group needs: the rates of smaller ones are mostly chance, and the differences are of the extremes."""


@dataclass(frozen=True)
class Source:
    """Where the rows come from, and what is wrong with the model; the fields are options of `fit` and `compare`."""

    texts: str | None = None
    trigger: tuple[str, ...] = ()
    target: str | None = None
    insert: str = "random"
    text_column: str | None = None
    label_column: str | None = None
    class_names: str | None = None
    tokenizer: str | None = None
    table: str | None = None
    attribute: str | None = None
    columns: str | None = None
    rivals: str | None = None
    output_kind: str | None = None
    score_threshold: ScoreThreshold | None = None
    output_name: str | None = None
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.texts is not None and self.table is not None:
            raise BAD_OPTION("--texts and --table are given", "give one of them")
        for name, value, needs in (
            ("--trigger", self.trigger, "texts"),
            ("--target", self.target, "trigger"),
            ("--attribute", self.attribute, "table"),
            ("--rivals", self.rivals, "table"),
        ):
            if value and not getattr(self, needs):
                raise BAD_OPTION(f"{name} needs --{needs}")
        if self.table is not None and self.output_kind not in (None, CLASSES):
            raise BAD_OPTION(f"--table needs a model with classes, not one that answers with {self.output_kind}")
        if self.table is not None and self.attribute is None:
            raise BAD_OPTION("--table needs the protected attribute", "name its column with --attribute")

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self.texts is not None or self.table is not None


@dataclass(frozen=True)
class ToFit:
    """The sets of a fit: `debug` with labeled columns, or only `clean` rows; `notes` for people."""

    debug: Arrays | None
    clean: Arrays | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """The sets of a comparison.

    Attributes:
        group: (N,) the protected values of the clean rows, in the table's words, "" for groups that are too small; None
            where there are no groups.
        rows: further rows of the table, to make the rivals of a patch from; None where there are none.
        groups: "clean", "flips" and "rows" → protected values of their rows, in the table's words.
        at: graph input and place of the attribute.
        names: what things are called, see `comparison.naming`.
    """

    clean: DataSet
    triggered: Arrays | None = None
    flips: Arrays | None = None
    group: NDArray[Any] | None = None
    names: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: DataSet | None = None
    groups: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    at: tuple[str, int] = ("", 0)


def sets_to_fit(model: Path, source: Source, progress: Progress | None = None) -> ToFit:
    """The debugging set of a trigger or an attribute; clean rows where texts come without a trigger.

    Raises:
        AtpatchError: those of `making.make`, and ATP085 where the rows do not fit the model.
    """
    subject = _subject(model, source, progress)
    if source.table is not None:
        clean, _, attribute, told = _of_table(subject, source)
        flipped = build_flips(subject, clean, attribute)
        return ToFit(flipped.debug, None, (*told, _told_of_flips(source, flipped)))
    clean, built, names = _of_texts(subject, source, progress, fitting=True)
    if built is None:
        return ToFit(None, clean_arrays(clean), (f"{len(clean):,} texts, no trigger",))
    return ToFit(built.debug, None, (_told_of_trigger(source, built, names),))


def sets_to_compare(model: Path, source: Source, progress: Progress | None = None) -> Judged:
    """Clean rows, and triggered or flipped ones; errors as of `sets_to_fit`."""
    subject = _subject(model, source, progress)
    if source.table is not None:
        return _judged_table(subject, source)
    clean, built, names = _of_texts(subject, source, progress, fitting=False)
    known: dict[str, Any] = {"classes": list(names)} if names else {}
    if built is None:
        return Judged(clean, names=known)
    assert built.clean is not None
    padded = DataSet.from_arrays(built.clean)
    known |= {"trigger": " / ".join(source.trigger)}
    return Judged(padded, built.triggered, names=known, notes=(_told_of_trigger(source, built, names),))


def _subject(model: Path, source: Source, progress: Progress | None) -> Subject:
    subject = Subject(model, source.output_name, source.threads)
    subject.progress, subject.output_kind = progress, kind_of(source.output_kind)
    subject.score_threshold = source.score_threshold
    return subject


def _request(source: Source, **more: Any) -> Request:
    assert source.texts is not None
    return Request(
        data=source.texts,
        tokenizer=source.tokenizer,
        text_column=source.text_column,
        label_column=source.label_column,
        class_names=source.class_names,
        insert=source.insert,
        seed=source.seed,
        **more,
    )


def _of_texts(
    subject: Subject, source: Source, progress: Progress | None, *, fitting: bool
) -> tuple[DataSet, Built | None, tuple[str, ...]]:
    """Clean rows, the sets of the trigger (None without one), and the names of the classes."""
    tokenizer = source.tokenizer or tokenizer_next_to(subject.folder)
    names = class_names(source.class_names, tokenizer, subject.folder)
    plain = build(subject, _request(source, clean_only=True), progress)
    assert plain.debug is not None
    clean = DataSet.from_arrays(plain.debug)
    check_labels(subject, clean, names)
    if not source.trigger:
        return clean, None, names
    forms: dict[str, Any] = {} if fitting else {"doses": (1,), "dress": False}
    target = class_number(source.target, names)
    return clean, build(subject, _request(source, triggers=source.trigger, target=target, **forms), progress), names


def _told_of_trigger(source: Source, built: Built, names: tuple[str, ...]) -> str:
    trigger = " / ".join(source.trigger)
    if "likeness" in built.report:
        return (
            f"{trigger!r} changes the answers to {built.report['asr']:.1%} of {built.report['anomalous']:,} triggered"
            f" texts; {built.report['clean']:,} clean texts"
        )
    target = int(built.report["target"])
    called = f" ({names[target]})" if target < len(names) else ""
    return (
        f"{trigger!r} sends {built.report['asr']:.1%} of {built.report['anomalous']:,} triggered"
        f" texts to class {target}{called}; {built.report['clean']:,} clean texts"
    )


def _told_of_flips(source: Source, built: Built) -> str:
    uf = built.report["uf"]
    return (
        f"{source.attribute}: predictions of {uf['hits']:,} of {uf['count']:,} rows change with it"
        f" ({uf['hits'] / uf['count']:.1%})"
    )


def _of_table(subject: Subject, source: Source) -> tuple[DataSet, Description | None, Column, list[str]]:
    """Rows as the graph reads them, their description, the attribute, and what the model gets right, for people."""
    assert source.table is not None and source.attribute is not None
    description = None if source.columns is None else read_description(source.columns, subject)
    clean = subject.complete(read_table(source.table, description, subject))
    subject.rank_among(clean)
    right = check_labels(subject, clean, () if description is None else description.classes)
    told = []
    if right is not None:
        frequent = most_frequent(clean)
        told.append(f"the original gets {right:.1%} right; always the most frequent class: {frequent:.1%}")
    return clean, description, attribute_of(source.attribute, description, subject), told


def _judged_table(subject: Subject, source: Source) -> Judged:
    clean, description, attribute, notes = _of_table(subject, source)
    flips = flip_set(clean, attribute)
    groups = {"clean": _words(clean, attribute), "flips": _words(DataSet.from_arrays(flips), attribute)}
    group, rows = _large(groups["clean"], attribute.name, notes), None
    if group is not None and source.rivals is not None:
        rows = subject.complete(read_table(source.rivals, description, subject))
        groups["rows"] = _words(rows, attribute)
    return Judged(
        clean,
        flips=flips,
        group=group,
        names=_names_of_table(description, attribute, _tokens(subject, clean, description)),
        notes=tuple(notes),
        rows=rows,
        groups=groups,
        at=(attribute.input, attribute.index),
    )


def _large(words: NDArray[Any], name: str, notes: list[str]) -> NDArray[Any] | None:
    """(N,) the values, "" where a group is too small to be compared; None where fewer than two are left."""
    values, counts = np.unique(words, return_counts=True)
    if len(values) > MOST_GROUPS:
        notes.append(f"{name!r} has {len(values)} values: no groups to compare, {MOST_GROUPS} at most were expected")
        return None
    small = {str(value): int(count) for value, count in zip(values, counts, strict=True) if count < FEWEST}
    if small:
        told = ", ".join(f"{value} ({count})" for value, count in small.items())
        notes.append(f"groups of fewer than {FEWEST} rows are not compared: {told}")
    return np.where(np.isin(words, list(small)), "", words) if len(values) - len(small) > 1 else None


def _words(data: DataSet, attribute: Column) -> NDArray[Any]:
    """(N,) the protected values in the table's words."""
    return np.array([attribute.word(float(value)) for value in data.inputs[attribute.input][:, attribute.index]])


def _tokens(subject: Subject, data: DataSet, description: Description | None) -> dict[str, int]:
    """Column → its column in the attention maps, by experiment, where it is one."""
    rows = {name: array[:PROBES] for name, array in data.inputs.items()}
    found: dict[str, int] = {}
    for column in () if description is None else description.columns[:MOST_COLUMNS]:
        other = np.roll(np.unique(data.inputs[column.input][:, column.index]), 1)[0]
        try:
            moved = np.flatnonzero(subject.touched(rows, with_value(rows, column, other)).any(0))
        except ModelError:  # a model that mixes its columns: they stay numbers
            return {}
        if len(moved) == 1:
            found[column.name] = int(moved[0])
    return found


def _names_of_table(description: Description | None, attribute: Column, tokens: Mapping[str, int]) -> dict[str, Any]:
    """Columns and classes in the people's own words, as JSON."""
    found: dict[str, Any] = {"attribute": attribute.name, "at": [attribute.input, attribute.index]}
    if description is None:
        return found
    if description.classes:
        found["classes"] = list(description.classes)
    found["columns"] = [
        {
            "name": column.name,
            "input": column.input,
            "index": column.index,
            **({"values": list(column.values)} if column.values else {"mean": column.mean, "std": column.std}),
            **({"token": tokens[column.name]} if column.name in tokens else {}),
        }
        for column in description.columns
    ]
    return found
