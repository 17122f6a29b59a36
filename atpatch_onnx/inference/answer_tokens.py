"""The tokens that a causal language model may answer with: class i is the i-th."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import BAD_OPTION
from .tokenizer import TextEncoder

__all__ = ["first_tokens", "parse_answer_tokens", "tokens_of"]

_BEFORE = "a"
"""A space in front of a word belongs to its token in most vocabularies, but only behind another word in some."""


def parse_answer_tokens(
    given: str | Sequence[int] | None, tokenizer: str | os.PathLike[str] | None = None
) -> tuple[int, ...] | None:
    """Ids, or a text of ids or words separated by commas. Spaces belong to a word: " no, yes" is " no" and " yes".

    Raises:
        AtpatchError: ATP060 for words without a tokenizer, or words that begin with the same token; ATP081 (tokenizer).
    """
    if given is None or not isinstance(given, str):
        return None if given is None else tuple(int(token) for token in given)
    words = given.split(",")
    if all(word.strip().isdecimal() for word in words):
        return tuple(int(word) for word in words)
    if tokenizer is None:
        raise BAD_OPTION(
            f"the answers {given!r} are words", "give the model's tokenizer with --tokenizer, or token ids"
        )
    return first_tokens(TextEncoder(tokenizer), words)


def first_tokens(encoder: TextEncoder, words: Sequence[str]) -> tuple[int, ...]:
    """The first token of each word.

    Raises:
        AtpatchError: ATP060 where two words begin with the same token, or a word has none.
    """
    found = []
    for word in words:
        tokens = tokens_of(encoder, word)
        if not tokens:
            raise BAD_OPTION(f"the answer {word!r} has no token")
        found.append(tokens[0])
    if len(set(found)) < len(found):
        raise BAD_OPTION(
            f"two of the answers {', '.join(map(repr, words))} begin with the same token",
            "name answers that differ in their first token",
        )
    return tuple(found)


def tokens_of(encoder: TextEncoder, words: str) -> list[int]:
    """All tokens of an answer; spaces in front belong to it."""
    if not words[:1].isspace():
        return encoder.plain(words)
    return encoder.plain(_BEFORE + words)[len(encoder.plain(_BEFORE)) :]
