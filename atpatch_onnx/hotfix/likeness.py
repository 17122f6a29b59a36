"""How near answers of a model without classes are to those that are expected, as the evidence of a hotfix has it."""

# No `annotations` from __future__: TypedDict must see at run time which entries are required.

from typing import NotRequired, TypedDict

__all__ = ["LikenessFigures", "Spread"]


class Spread(TypedDict):
    """Median, 5 % quantile and mean of n values; nothing has none of them."""

    n: int
    median: NotRequired[float]
    low: NotRequired[float]
    mean: NotRequired[float]


class LikenessFigures(TypedDict):
    """How near answers of a model without classes are to the original's answers to the clean twins, 1 being the same
    (of embeddings the cosine, of tokens the share of labels that are kept): of clean rows after the patch, of
    triggered rows before and after.
    """

    kind: str
    clean: Spread
    triggered_before: Spread
    triggered: Spread
