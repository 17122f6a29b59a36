"""Clean rows from texts, for `debugset --clean-only`, `fit --clean` and `compare --data`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict, Unpack

from ..errors import BAD_OPTION, SAMPLES_UNREADABLE
from ..inference.datasets import DataSet
from ..inference.tokenizer import TextEncoder
from ..inspection.model_files import TOKENIZERS, files_in, tokenizer_next_to
from .samples import Texts, class_names, read_texts
from .subject import Subject
from .text import clean_texts

__all__ = ["TEXT", "TextKeywords", "is_text", "read_clean_texts", "read_labeled_texts"]

TEXT = (".tsv", ".csv", ".tab")
"""Endings of files of texts."""


class TextKeywords(TypedDict, total=False):
    """How a file of texts is read, as keywords of `read_labeled_texts`."""

    text_column: str | None
    label_column: str | None
    names: str | None
    max_length: int | None


def is_text(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds texts, by its name."""
    return Path(path).suffix.lower() in TEXT


def read_labeled_texts(
    subject: Subject,
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    names: str | None = None,
    max_length: int | None = None,
) -> tuple[Texts, TextEncoder]:
    """Texts, and the model's tokenizer to encode them; of a model without classes no labels are read.

    Args:
        tokenizer: folder of the tokenizer; None: the model's own. Its `config.json`, or the one next to the model, may
            name the classes.
        names: of the classes in order, separated by commas.
        max_length: tokens of a text at most; None: the tokenizer's own limit.

    Raises:
        AtpatchError: ATP002, ATP060 (no tokenizer), ATP080 (texts), ATP081 (tokenizer), ATP051 (no package tokenizers).
    """
    tokenizer = tokenizer_next_to(subject.folder) if tokenizer is None else tokenizer
    if tokenizer is None:
        raise BAD_OPTION(
            f"texts need the model's tokenizer: {' or '.join(TOKENIZERS)} was expected next to the model, and"
            f" {subject.folder} holds {files_in(subject.folder)}",
            "give its folder with --tokenizer",
        )
    if not is_text(path):
        raise SAMPLES_UNREADABLE(f"{path} is not a .tsv or .csv file of texts")
    encoder = TextEncoder(tokenizer, max_length)
    folder = Path(tokenizer).parent if Path(tokenizer).is_file() else tokenizer
    classes = class_names(names, folder, subject.folder)
    return read_texts(path, text_column, label_column, classes, labeled=not subject.by_twin), encoder


def read_clean_texts(
    subject: Subject,
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None,
    **options: Unpack[TextKeywords],
) -> DataSet:
    """Graph inputs, and labels where the file has them; arguments and errors as in `read_labeled_texts`, and ATP056
    where the graph does not read texts.
    """
    return clean_texts(subject, *read_labeled_texts(subject, path, tokenizer, **options))
