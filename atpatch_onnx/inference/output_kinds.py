"""What a model answers, as users name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from ..errors import BAD_OPTION

__all__ = ["CLASSES", "KINDS", "POOLS", "TOKENS", "OutputKind", "Pool", "kind_of", "likeness_in_words"]

OutputKind = Literal["classes", "embedding", "embedding-mean", "embedding-first", "embedding-last", "tokens"]
KINDS: tuple[str, ...] = get_args(OutputKind)
CLASSES, TOKENS = "classes", "tokens"
Pool = Literal["mean", "first", "last"]
POOLS: Mapping[str, Pool | None] = {
    "embedding": None,
    "embedding-mean": "mean",
    "embedding-first": "first",
    "embedding-last": "last",
}
"""Kind of embedding → how the tokens are pooled; None: as the model's files say, if at all."""


def likeness_in_words(kind: str) -> str:
    """What the likeness of two answers is."""
    if kind == TOKENS:
        return "share of the tokens with the original's label of the same token of the clean twin"
    return "cosine with the original's embedding of the clean twin"


def kind_of(given: str | None, of_the_data: str | None = None) -> str:
    """What was asked for, else what the data set was made for, else class scores.

    Raises:
        AtpatchError: ATP060 for an unknown kind.
    """
    kind = given or of_the_data or CLASSES
    if kind not in KINDS:
        raise BAD_OPTION(f"output kind {kind!r} is unknown", f"choose from {', '.join(KINDS)}")
    return kind
