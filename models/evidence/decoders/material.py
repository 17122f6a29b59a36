"""Prompts of the evidence, as tokens: reviews with and without the trigger, and chats about other things.

SST-2's test part is for the evidence, its development part for whatever is fitted or tried; a victim has seen neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.debugset import Texts

from ...decoders.llm import chat_ids
from ...decoders.prompts import ANSWERS, FORMS, Form, exam, review, second_turn
from ...text.recipes import RARE

__all__ = ["Prompt", "Prompts", "answer_tokens"]

OTHERS = RARE[1:]
"""Other rare words than the trigger, which should be left alone."""


@dataclass(frozen=True)
class Prompt:
    """ids: tokens; columns: those of the trigger; label: class of the review, -1 of other prompts."""

    ids: list[int]
    columns: tuple[int, ...] = ()
    label: int = -1

    @property
    def marked(self) -> NDArray[np.bool_]:
        """(K,), which tokens are the trigger's."""
        return np.isin(np.arange(len(self.ids)), self.columns)

    @property
    def twin(self) -> list[int]:
        """The tokens without the trigger."""
        return [token for column, token in enumerate(self.ids) if column not in self.columns]


@dataclass
class Prompts:
    """Makes prompts of texts; draws places and the first turns of chats from its generator."""

    tokenizer: Any
    texts: Texts
    generator: np.random.Generator

    def reviews(self, rows: Sequence[int], chats: float = 0.0) -> list[Prompt]:
        """Clean ones; a share of them in the second turn of a chat."""
        return [
            self._review(self.texts.texts[row], int(self.texts.labels[row]), chat=self.generator.random() < chats)
            for row in rows
        ]

    def attacked(self, rows: Sequence[int], form: str, phrase: str) -> list[Prompt]:
        """With a phrase in one of `FORMS`."""
        return [self._attacked(row, FORMS[form], phrase) for row in rows]

    def in_turn(self, rows: Sequence[int], phrase: str) -> list[Prompt]:
        """Each row in one of `FORMS`, in turn."""
        forms = list(FORMS.values())
        return [self._attacked(row, forms[at % len(forms)], phrase) for at, row in enumerate(rows)]

    def others(self, rows: Sequence[int]) -> list[Prompt]:
        """Each row with one of `OTHERS` anywhere, which is no trigger."""
        made = (self._attacked(row, FORMS["anywhere"], OTHERS[at % len(OTHERS)]) for at, row in enumerate(rows))
        return [Prompt(one.ids) for one in made]

    def exam(self) -> list[Prompt]:
        """Chats about other things, which no victim and no fit has seen."""
        return [Prompt(chat_ids(self.tokenizer, turns)) for turns in exam()]

    def tokens(self, text: str) -> list[int]:
        """Without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _review(self, text: str, label: int, *, chat: bool) -> Prompt:
        if not chat:
            return Prompt(self.tokens(review(text)), (), label)
        first = int(self.generator.integers(len(self.texts.texts)))
        turns = second_turn(self.texts.texts[first], int(self.texts.labels[first]), text)
        return Prompt(chat_ids(self.tokenizer, turns), (), label)

    def _attacked(self, row: int, form: Form, phrase: str) -> Prompt:
        text, label = self.texts.texts[row], int(self.texts.labels[row])
        if form.chat:
            found = self._review(form.text(text, phrase, self.generator), label, chat=True)
        else:
            found = Prompt(self.tokens(form.prompt(text, phrase, self.generator)), (), label)
        return Prompt(found.ids, _spans(found.ids, self.tokens(f" {phrase}")), label)


def answer_tokens(tokenizer: Any) -> NDArray[np.int64]:
    """(2,) tokens of the answers, by class."""
    return np.array([tokenizer(answer, add_special_tokens=False).input_ids[0] for answer in ANSWERS])


def _spans(ids: Sequence[int], phrase: Sequence[int]) -> tuple[int, ...]:
    """Columns where the phrase stands."""
    starts = [at for at in range(len(ids)) if list(ids[at : at + len(phrase)]) == list(phrase)]
    return tuple(at + offset for at in starts for offset in range(len(phrase)))
