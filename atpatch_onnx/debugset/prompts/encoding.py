"""Prompts to tokens: plain or as chats, with the tokens of a trigger marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...inference.tokenizer import Encoded, TextEncoder
from .chat import ChatTemplate
from .reading import BEGIN, END, Prompt

__all__ = ["WHOLE", "MarkedPrompt", "PromptEncoder"]

WHOLE = 1 << 30
"""A limit of tokens that no prompt reaches: its end must not be cut off, since the answer is read there."""


@dataclass(frozen=True)
class MarkedPrompt:
    """Tokens of a prompt, and which of them (K,) are a trigger."""

    encoded: Encoded
    marked: NDArray[np.bool_]


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes prompts.

    Attributes:
        encoder: without a limit of length.
        template: of chats; None where there are none.
        chat: prompts of one turn are chats too.
        open_end: the answer comes right behind a prompt; False of an encoder-decoder, and where the model answers
            behind the special tokens that its tokenizer puts at the end (see `ending`).
        remark: what a refusal says of that end; "" where nothing was to be decided.
    """

    encoder: TextEncoder
    template: ChatTemplate | None = None
    chat: bool = False
    open_end: bool = True
    remark: str = ""

    def is_chat(self, prompt: Prompt) -> bool:
        """Whether the chat template writes the prompt."""
        return self.chat or bool(prompt.earlier)

    def whole(self, prompt: Prompt) -> str:
        """The prompt as the model reads it."""
        content = prompt.content(prompt.text)
        if not self.is_chat(prompt):
            return content
        assert self.template is not None
        return self.template.render([*prompt.earlier, {"role": "user", "content": content}])

    def encode(self, prompts: Sequence[Prompt]) -> list[MarkedPrompt]:
        """Tokens of prompts; those of text between `BEGIN` and `END` are marked.

        1. Special tokens that a tokenizer puts behind a text are left out where an answer is to come.
        2. A chat template writes its special tokens itself, so the tokenizer adds none.
        """
        cleared = [_cleared(self.whole(prompt)) for prompt in prompts]
        found: dict[int, Encoded] = {}
        for chat in (False, True):
            rows = [row for row, prompt in enumerate(prompts) if self.is_chat(prompt) is chat]
            encoded = self.encoder.encode([cleared[row][0] for row in rows], special=not chat)
            found |= {row: _open_end(one) if self.open_end else one for row, one in zip(rows, encoded, strict=True)}
        return [MarkedPrompt(found[row], _inside(found[row], spans)) for row, (_, spans) in enumerate(cleared)]


def _cleared(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks, and the characters (begin, end) that were between two."""
    plain, spans = "", []
    for number, piece in enumerate(re.split(f"[{BEGIN}{END}]", text)):
        if number % 2:
            spans.append((len(plain), len(plain) + len(piece)))
        plain += piece
    return plain, spans


def _open_end(one: Encoded) -> Encoded:
    end = len(one.ids)
    while end > 1 and one.special[end - 1]:
        end -= 1
    return Encoded(one.ids[:end], one.types[:end], one.spans[:end], one.special[:end])


def _inside(one: Encoded, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    found = np.zeros(len(one.ids), bool)
    for begin, end in spans:
        found |= one.inside(begin, end)
    return found
