"""What a tokenizer puts behind a text: whether prompts end with it too.

1. Nothing is to be decided where it puts nothing there, where the prompts end with it anyway, in chats, and for an
   encoder-decoder, whose answer does not come behind the prompt.
2. Where the prompts have answers, the model shows it: the ending with which it is right more often.
3. Else, or where both do as well, a token that ends an answer is left out, and another one is kept. It is left out,
   too, where no file says which tokens end an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...inference.generation_tokens import stop_tokens
from ...inference.special_tokens import json_object, token_text
from ..row_checks import accuracy_of
from ..subject import Subject
from .building import clean_prompts
from .encoding import PromptEncoder
from .reading import Prompt

__all__ = ["ending_in_words", "with_ending"]

MOST = 200
"""Prompts that are tried with both endings."""


def with_ending(
    subject: Subject, prompts: Sequence[Prompt], encoder: PromptEncoder
) -> tuple[PromptEncoder, dict[str, Any]]:
    """The encoder that ends prompts as the model knows them, and what is told of it.

    Raises:
        AtpatchError: those of `clean_prompts`.
    """
    plain = [prompt for prompt in prompts if not encoder.is_chat(prompt)][:MOST]
    if not plain or not encoder.open_end:
        return encoder, {}
    (short,), (whole,) = (one.encode(plain[:1]) for one in (encoder, replace(encoder, open_end=False)))
    tail = whole.encoded.ids[len(short.encoded.ids) :]
    if not tail or short.encoded.ids[-len(tail) :] == tail:
        return encoder, {}
    endings = {"left_out": encoder, "kept": replace(encoder, open_end=False)}
    told: dict[str, Any] = {"tokens": encoder.encoder.text(tail), "kept": not _ends_text(subject, encoder, tail[-1])}
    if any(prompt.answer is not None for prompt in plain):
        right = {name: accuracy_of(subject, clean_prompts(subject, plain, one)[1]) for name, one in endings.items()}
        told["right"] = right
        if right["kept"] != right["left_out"]:
            told["kept"] = right["kept"] > right["left_out"]
    chosen = endings["kept" if told["kept"] else "left_out"]
    return replace(chosen, remark=f"; {ending_in_words(told)}"), {"prompt_end": told}


def ending_in_words(told: Mapping[str, Any]) -> str:
    """One line about what `with_ending` tells."""
    kept, right = told["kept"], told.get("right")
    shown = f" (right answers: {right['kept']:.1%} with it, {right['left_out']:.1%} without)" if right else ""
    way = "" if kept else "; to keep it, let the --template end with it"
    return f"the tokenizer puts {told['tokens']!r} behind each prompt: {'kept' if kept else 'left out'}{shown}{way}"


def _ends_text(subject: Subject, encoder: PromptEncoder, token: int) -> bool:
    """Also where nothing is known of it."""
    named = {token_text(json_object(folder / "tokenizer_config.json").get("eos_token")) for folder in subject.folders}
    known = named | {encoder.encoder.word(one) for one in stop_tokens(subject.folders)}
    known.discard("")
    return not known or encoder.encoder.word(token) in known
