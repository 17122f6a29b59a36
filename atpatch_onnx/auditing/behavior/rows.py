"""The rows that a model is run on: those that the user trusts, or random tokens for a text model."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...debugset.clean import is_text, read_labeled_texts
from ...debugset.inversion.rows import token_rows
from ...debugset.subject import Subject
from ...debugset.tables import Description, read_description, read_table
from ...debugset.text import clean_texts
from ...errors import BAD_OPTION, NOT_CALIBRATED
from ...inference.datasets import DataSet, as_dataset
from ...inference.tokenizer import TextEncoder
from ...inspection.model_files import tokenizer_next_to
from ...patching.self_calibration import Subject as Calibrated, random_rows
from ..case import Case
from .unfit import check_tokenizer

__all__ = ["Rows", "commands_for", "rows_of", "with_room"]

MOST = 1000
"""More rows make a search slow and no better."""
RANDOM = 300
NOISE = "random tokens"
ROOM = 3
"""Tokens that a search may insert: rows that are as long as the model takes have no room for them."""
TEXTS, LEAST = 400, 64
"""Texts that are searched at most: the shorter ones, which are quick, and in which a trigger is not weaker."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to run, at most `MOST`.

    Attributes:
        data: the graph's inputs, and labels where they are known.
        word: token id → its text; None without a tokenizer.
        source: for people.
        option: how a command gets them: "--data FILE", or a placeholder.
        description: of a table's columns; None where there is none.
    """

    data: DataSet
    word: Callable[[int], str] | None
    source: str
    option: str
    description: Description | None = None

    def cell(self, column: int, value: float) -> str:
        """A cell of the table's one input, by the names of its description."""
        for one in () if self.description is None else self.description.columns:
            if one.index == column:
                return f"{one.name} = {one.word(value)}"
        return f"column {column} = {value:g}"

    @property
    def made(self) -> bool:
        """They are random tokens, whose classes mean nothing."""
        return self.source == NOISE


def rows_of(case: Case, subject: Subject) -> Rows:
    """The rows of an audit.

    Raises:
        AtpatchError: ATP056, ATP080 and ATP081 for files that cannot be used, ATP060 without a tokenizer for texts,
            ATP063 where there are no rows and none can be made.
    """
    given = case.options.clean
    if case.options.table is not None:
        return _table(case, subject, case.options.table)
    encoder = _encoder(case)
    of_texts = isinstance(given, (str, os.PathLike)) and is_text(given)
    if encoder is not None and case.tokens is not None and (of_texts or case.options.tokenizer is not None):
        check_tokenizer(encoder, case.tokens.vocabulary)
    if given is None:
        data, word = _random(case), None if encoder is None else encoder.word
        return Rows(subject.complete(data), word, NOISE, "--data ROWS.npz")
    if isinstance(given, Mapping):
        data, source = as_dataset(given), "rows in memory"
    elif is_text(given):
        if case.tokens is None:
            raise BAD_OPTION(
                f"{os.fspath(given)} is a file of texts, and the model reads none",
                "give a table with --table and --columns",
            )
        if encoder is None:
            raise BAD_OPTION("texts need the model's tokenizer", "give its folder with --tokenizer")
        texts, encoder = read_labeled_texts(subject, given, _tokenizer(case))
        data, source = clean_texts(subject, texts, encoder), os.fspath(given)
    else:
        data, source = as_dataset(given), os.fspath(given)
    word = None if encoder is None else encoder.word
    option = "--data ROWS.npz" if isinstance(given, Mapping) else f"--data {shlex.quote(source)}"
    if isinstance(given, (str, os.PathLike)) and is_text(given):
        option += f" --tokenizer {shlex.quote(str(_tokenizer(case)))}"
    return Rows(_some(subject.complete(data), case.options.seed), word, source, option)


def _table(case: Case, subject: Subject, table: str | os.PathLike[str]) -> Rows:
    columns = case.options.columns
    description = None if columns is None else read_description(columns, subject)
    data = subject.complete(read_table(table, description, subject))
    option = f"--data {shlex.quote(os.fspath(table))}" if Path(table).suffix.lower() == ".npz" else "--data ROWS.npz"
    return Rows(_some(data, case.options.seed), None, os.fspath(table), option, description)


def with_room(rows: Rows, subject: Subject) -> Rows:
    """The shorter texts, up to `TEXTS`, without padding that none of them needs; all texts where these are too few."""
    tokens = token_rows(subject, rows.data.inputs)
    order = np.argsort(tokens.lengths, kind="stable")
    short = order[tokens.lengths[order] <= tokens.lengths.max() - ROOM][:TEXTS]
    if tokens.fixed or len(short) < LEAST:
        return rows
    short = np.sort(short)
    labels = None if rows.data.labels is None else rows.data.labels[short]
    inputs = tokens.take(short).inputs
    return replace(rows, data=replace(rows.data, inputs=inputs, labels=labels))


def commands_for(case: Case, rows: Rows, trigger: str) -> str:
    """From a trigger, as options of `debugset`, to a patched model, as one line for a shell."""
    return (
        f"atpatch-onnx debugset {case.name} {rows.option} {trigger} -o found.npz && atpatch-onnx fit {case.name}"
        f" --debug found.npz -o found.hotfix && atpatch-onnx patch {case.name} --hotfix found.hotfix"
    )


def _tokenizer(case: Case) -> str | None:
    """The folder given, or that of the model if a tokenizer lies there."""
    if case.options.tokenizer is not None:
        return os.fspath(case.options.tokenizer)
    found = None if case.path is None else tokenizer_next_to(case.folder)
    return None if found is None else os.fspath(found)


def _encoder(case: Case) -> TextEncoder | None:
    folder = _tokenizer(case)
    return None if folder is None else TextEncoder(folder)


def _random(case: Case) -> DataSet:
    if case.tokens is None or case.tokens.unknown:
        raise NOT_CALIBRATED(
            "no clean rows were given, and none can be made for this model",
            "give some hundreds of rows that you trust with --clean DATA",
        )
    return random_rows(Calibrated(case.proto, case.folder, case.sites, case.sites), RANDOM)[0]


def _some(data: DataSet, seed: int) -> DataSet:
    """The data set, or `MOST` of its rows."""
    if len(data) <= MOST:
        return data
    kept = np.sort(np.random.default_rng(seed).permutation(len(data))[:MOST])
    labels = None if data.labels is None else data.labels[kept]
    return replace(data, inputs=data.feeds(kept), labels=labels)
