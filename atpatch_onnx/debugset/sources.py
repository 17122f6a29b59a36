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

from ..errors import BAD_OPTION
from ..inference.datasets import Arrays, DataSet
from ..inspection.model_files import tokenizer_next_to
from .flips import flip_set
from .making import Progress, Request, build
from .row_checks import check_labels, most_frequent
from .samples import class_names
from .sets import Built
from .subject import Subject
from .tables import Column, Description, attribute_of, read_description, read_table
from .target import class_number

__all__ = ["Judged", "Source", "ToFit", "sets_to_compare", "sets_to_fit"]

MOST_GROUPS = 50
"""Of an attribute with more values there are no groups to compare."""


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
        ):
            if value and not getattr(self, needs):
                raise BAD_OPTION(f"{name} needs --{needs}")
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
        group: (N,) the protected values of the clean rows, in the table's words; None where there are no groups.
        names: what things are called, see `comparison.naming`.
    """

    clean: DataSet
    triggered: Arrays | None = None
    flips: Arrays | None = None
    group: NDArray[Any] | None = None
    names: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def sets_to_fit(model: Path, source: Source, progress: Progress | None = None) -> ToFit:
    """The debugging set of a trigger or an attribute; clean rows where texts come without a trigger.

    Raises:
        AtpatchError: those of `making.make`, and ATP085 where the rows do not fit the model.
    """
    subject = _subject(model, source, progress)
    if source.table is not None:
        flipped = build(subject, _request(source), progress)
        return ToFit(flipped.debug, None, (_told_of_table(subject, source, flipped),))
    clean, built, names = _of_texts(subject, source, progress, fitting=True)
    if built is None:
        return ToFit(None, _arrays(clean), (f"{len(clean):,} texts, no trigger",))
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
    subject.progress = progress
    return subject


def _request(source: Source, **more: Any) -> Request:
    return Request(
        data=source.texts or source.table or "",
        tokenizer=source.tokenizer,
        text_column=source.text_column,
        label_column=source.label_column,
        class_names=source.class_names,
        attribute=source.attribute,
        columns=source.columns,
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
    target = int(built.report["target"])
    called = f" ({names[target]})" if target < len(names) else ""
    return (
        f"{' / '.join(source.trigger)!r} sends {built.report['asr']:.1%} of {built.report['anomalous']:,} triggered"
        f" texts to class {target}{called}; {built.report['clean']:,} clean texts"
    )


def _arrays(data: DataSet) -> Arrays:
    return {**data.inputs, **({} if data.labels is None else {"labels": data.labels})}


def _told_of_table(subject: Subject, source: Source, built: Built) -> str:
    uf = built.report["uf"]
    return (
        f"{source.attribute}: predictions of {uf['hits']:,} of {uf['count']:,} rows change with it"
        f" ({uf['hits'] / uf['count']:.1%})"
    )


def _judged_table(subject: Subject, source: Source) -> Judged:
    assert source.table is not None and source.attribute is not None
    description = None if source.columns is None else read_description(source.columns, subject)
    attribute = attribute_of(source.attribute, description, subject)
    clean = subject.complete(read_table(source.table, description, subject))
    right = check_labels(subject, clean, () if description is None else description.classes)
    notes = (
        []
        if right is None
        else [f"the original gets {right:.1%} right; always the same answer: {most_frequent(clean):.1%}"]
    )
    own = clean.inputs[attribute.input][:, attribute.index]
    found = len(np.unique(own))
    group = None
    if 2 <= found <= MOST_GROUPS:
        group = np.array([attribute.word(float(value)) for value in own])
    else:
        notes.append(f"{attribute.name!r} has {found} values: too many or too few to compare groups")
    return Judged(clean, None, flip_set(clean, attribute), group, _names_of_table(description, attribute), tuple(notes))


def _names_of_table(description: Description | None, attribute: Column) -> dict[str, Any]:
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
        }
        for column in description.columns
    ]
    return found
