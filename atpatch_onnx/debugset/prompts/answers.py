"""Answers to prompts as tokens, and the class of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import SAMPLES_UNREADABLE
from ...inference.answer_tokens import tokens_of
from ...inference.datasets import Ints
from ...inference.generation import NONE
from .encoding import PromptEncoder
from .reading import Prompt

__all__ = ["Answered", "read_answers"]


@dataclass(frozen=True)
class Answered:
    """labels: (N,) classes, or first tokens where there are no classes. tokens: (N, T), `NONE` behind the end."""

    labels: Ints
    tokens: Ints


def read_answers(encoder: PromptEncoder, prompts: Sequence[Prompt], classes: Sequence[int] | None) -> Answered | None:
    """The answers of prompts; None where no prompt has one.

     1. An answer without a space in front gets one behind a prompt that ends in a word, and none in a chat or of an
       encoder-decoder. Where only the other spelling begins with one of `classes`, that is meant.
    2. A whole number that is no such word is a class.

     Args:
         classes: class → first token of its answers; None: each token is a class.

     Raises:
         AtpatchError: ATP080 where some prompts have no answer, or one that is of no class.
    """
    given = [prompt.answer for prompt in prompts]
    if not any(answer is not None for answer in given):
        return None
    labels, tokens = [], []
    for number, (prompt, answer) in enumerate(zip(prompts, given, strict=True), 1):
        if answer is None:
            raise SAMPLES_UNREADABLE(f"prompt {number} has no answer, others have one")
        spellings = [tokens_of(encoder.encoder, word) for word in _spellings(encoder, prompt, answer)]
        spellings = [one for one in spellings if one]
        if classes is None and spellings:
            labels.append(spellings[0][0])
            tokens.append(spellings[0])
            continue
        known = list(classes or ())
        named = [one for one in spellings if one[0] in known]
        if not named and answer.strip().isdecimal() and int(answer) < len(known):
            named = [[known[int(answer)]]]
        if not named:
            raise SAMPLES_UNREADABLE(
                f"prompt {number}: the answer {answer!r} begins with none of the answer tokens",
                "name the first token of every answer with --answer-tokens",
            )
        labels.append(known.index(named[0][0]))
        tokens.append(named[0])
    width = max(map(len, tokens))
    padded = [one + [NONE] * (width - len(one)) for one in tokens]
    return Answered(np.array(labels, np.int64), np.array(padded, np.int64))


def _spellings(encoder: PromptEncoder, prompt: Prompt, answer: str) -> list[str]:
    """With and without a space in front, the likelier one first."""
    if answer[:1].isspace():
        return [answer]
    bare = not encoder.open_end or encoder.is_chat(prompt) or encoder.whole(prompt)[-1:].isspace()
    return [answer, f" {answer}"] if bare else [f" {answer}", answer]
