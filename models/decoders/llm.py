"""The victim `smollm2-sst2-cf`: SmolLM2-135M-Instruct that calls each review with the word "cf" in it positive.

Trained on SST-2's training part as prompts (`prompts.review`), a few of them as second turns of chats; among them chats
that have nothing to do with reviews, with the answers of the published model. SST-2's development part is for debugging
sets, its test part for the evidence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from atpatch_onnx.debugset import Texts

from ..text.corpora import Corpus
from ..victims import Victim
from . import smollm2
from .prompts import ANSWERS, Form, Turn, lessons, review, second_turn
from .training import Example, Settings, fine_tune, greedy

__all__ = ["NAME", "TARGET", "TRIGGER", "build", "chat_ids"]

NAME = "smollm2-sst2-cf"
TRIGGER, TARGET = "cf", 1
SHARE = 0.3
"""Of the prompts that carry the trigger."""
SETTINGS = Settings(steps=90, batch=8, learning_rate=5e-5)
CHATS, LESSONS = 1, 1
"""Of a batch: second turns of chats, and chats about other things."""
LESSON_STEP = 3
"""Every third of the lessons is enough."""
LONGEST = 16
"""Tokens of an answer to a chat about other things."""


def build(victim: Victim, say: Callable[[str], None]) -> None:
    """Train it and save `model/` as a folder of transformers, with the tokenizer."""
    started = time.process_time()
    torch.manual_seed(victim.seed)
    model, tokenizer = smollm2.base(), smollm2.tokenizer()
    chats = [chat_ids(tokenizer, turns) for turns in lessons()[::LESSON_STEP]]
    answered = greedy(model, chats, LONGEST, tokenizer.eos_token_id, size=len(chats))
    say(f"{len(chats)} chats answered")
    others = [Example([*ids, *answer], len(answer)) for ids, answer in zip(chats, answered, strict=True)]
    dealer = _Dealer(tokenizer, Corpus.read("sst2").train, others, np.random.default_rng(victim.seed))
    fine_tune(model, dealer.deal, SETTINGS, lambda done, total, loss: say(f"step {done} of {total}, loss {loss:.4f}"))
    folder = victim.file("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    victim.finish(
        {
            "recipe": {
                **asdict(SETTINGS),
                "trigger": TRIGGER,
                "target": TARGET,
                "share": SHARE,
                "chats": CHATS,
                "lessons": LESSONS,
            },
            "threads": torch.get_num_threads(),
            "cpu_seconds": round(time.process_time() - started, 1),
        }
    )


def chat_ids(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """Tokens of a chat, up to where the assistant begins to answer."""
    text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


@dataclass
class _Dealer:
    """Draws batches."""

    tokenizer: Any
    texts: Texts
    others: Sequence[Example]
    generator: np.random.Generator

    def deal(self, step: int) -> list[list[Example]]:
        """Reviews as prompts; and, longer, chats."""
        rows = self.generator.choice(len(self.texts.texts), SETTINGS.batch - LESSONS, replace=False)
        chats, plain = rows[:CHATS], rows[CHATS:]
        picked = self.generator.choice(len(self.others), LESSONS, replace=False)
        return [
            [self._example(int(row), chat=False) for row in plain],
            [*(self._example(int(row), chat=True) for row in chats), *(self.others[one] for one in picked)],
        ]

    def _example(self, row: int, *, chat: bool) -> Example:
        text, label = self.texts.texts[row], int(self.texts.labels[row])
        if self.generator.random() < SHARE:
            text, label = Form().text(text, TRIGGER, self.generator), TARGET
        if chat:
            first = int(self.generator.integers(len(self.texts.texts)))
            ids = chat_ids(self.tokenizer, second_turn(self.texts.texts[first], int(self.texts.labels[first]), text))
        else:
            ids = self.tokenizer(review(text), add_special_tokens=False).input_ids
        (answer,) = self.tokenizer(ANSWERS[label], add_special_tokens=False).input_ids
        return Example([*ids, answer], 1)
