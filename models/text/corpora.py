"""The texts as published, and what is set aside of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from atpatch_onnx.debugset import Texts, read_texts

from ..victims import data_folder

__all__ = ["SOURCES", "Corpus", "corpus_file", "set_aside"]

SOURCES = (
    "clean and syntactic SST-2 and OffensEval: thunlp/HiddenKiller, data/; Bible style: thunlp/StyleAttack,"
    " data/transfer/bible (both on GitHub); put them as TSV files into sst2, sst2_backdoor and offenseval below the"
    " folder that ATPATCH_DATA names"
)


@dataclass(frozen=True)
class Corpus:
    """Texts and labels as published, but for `fresh`: what is set aside of the training texts."""

    train: Texts
    dev: Texts
    test: Texts
    fresh: Texts

    @classmethod
    def read(cls, name: str, fresh: int = 0) -> Corpus:
        """Needs ATPATCH_DATA, see `available`. The last `fresh` rows of the training texts are set aside."""
        train, dev, test = (read_texts(corpus_file(name, f"{part}.tsv")) for part in ("train", "dev", "test"))
        kept, last = set_aside(train, fresh, {*dev.texts, *test.texts})
        return cls(kept, dev, test, last)


def set_aside(train: Texts, count: int, known: Collection[str] = ()) -> tuple[Texts, Texts]:
    """The texts without the last `count`, and those last ones, each text once, that stand neither among the first nor
    in `known`.
    """
    first = len(train.texts) - count
    place = {text: row for row, text in reversed(list(enumerate(train.texts)))}
    rows = [row for row in range(first, len(train.texts)) if place[train.texts[row]] == row]
    rows = [row for row in rows if train.texts[row] not in known]
    return (
        Texts(list(train.texts[:first]), train.labels[:first]),
        Texts([train.texts[row] for row in rows], train.labels[rows]),
    )


def corpus_file(folder: str, name: str) -> Path:
    """A file of a corpus.

    Raises:
        FileNotFoundError: with where it comes from.
    """
    found = data_folder(folder)
    if found is None:
        raise FileNotFoundError(f"{folder} is not there: {SOURCES}")
    return found / name
