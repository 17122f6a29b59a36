"""What a model answers, as users name it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

from ..errors import BAD_OPTION, DATA_MALFORMED

__all__ = [
    "CLASSES",
    "EMBEDDINGS",
    "KINDS",
    "NAMED",
    "OF_TOKENS",
    "POOLS",
    "TOKENS",
    "OutputKind",
    "Pool",
    "ScoreThreshold",
    "kind_of",
    "likeness_in_words",
    "parse_threshold",
    "shared_kind",
]

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
NAMED = ("sentence_embedding", "sentence_embeddings", "embedding", "embeddings", "text_embeds", "image_embeds")
"""Outputs that are the embedding, as sentence-transformers, Optimum and transformers call them."""
OF_TOKENS = ("last_hidden_state", "token_embeddings")
"""Outputs that are pooled; a `pooler_output` next to them is not what a search model was trained for."""
EMBEDDINGS = (*NAMED, *OF_TOKENS, "pooler_output")
"""Outputs that hold no class scores, unless someone says so."""


ScoreThreshold = float | str
"""A score; or a rank, such as "top10%": a row is of class 1 if its score is among the top tenth of clean ones."""


def parse_threshold(text: str) -> ScoreThreshold:
    """A score as a number; a rank as it was written.

    Raises:
        ValueError: for NaN, infinity and anything else.
    """
    percent = text.removeprefix("top").removesuffix("%")
    is_rank = text == f"top{percent}%"
    try:
        number = float(percent if is_rank else text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (is_rank and not 0 < number < 100):
        raise ValueError("give a score such as 0.5, or a rank such as top10%")
    return text if is_rank else number


def likeness_in_words(kind: str) -> str:
    """What the likeness of two answers is."""
    if kind == TOKENS:
        return "share of the tokens with the original's label of the same token of the clean twin"
    return "cosine with the original's embedding of the clean twin"


def shared_kind(*of_the_data: str | None) -> str | None:
    """What data sets that are used together were made for; None where no set says it.

    Raises:
        AtpatchError: ATP056 where they contradict each other.
    """
    found = sorted({kind for kind in of_the_data if kind is not None})
    if len(found) > 1:
        raise DATA_MALFORMED(
            f"the data sets were made for different kinds of answers: {' and '.join(found)}",
            "make all of them with one --output-kind",
        )
    return found[0] if found else None


def kind_of(given: str | None, *of_the_data: str | None) -> str:
    """What was asked for, else what the data sets were made for, else class scores.

    Raises:
        AtpatchError: ATP056 where data sets contradict each other, ATP060 for an unknown kind.
    """
    kind = given or shared_kind(*of_the_data) or CLASSES
    if kind not in KINDS:
        raise BAD_OPTION(f"output kind {kind!r} is unknown", f"choose from {', '.join(KINDS)}")
    return kind
