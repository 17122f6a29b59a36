"""Which clean text a poisoned text was made from, and which clean rows are kept next to the twins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ...inference.datasets import Ints

__all__ = ["twins", "with_others"]

ALIKE = 0.5
"""Words that two texts share, of all words of the two: a clean text and itself with a trigger share more."""


MUCH = 3
"""Texts that are closer to their own row than to the next one, for each that is not; by chance it is 1."""


def twins(poisoned: Sequence[str], clean: Sequence[str], labels: Ints, target: int) -> Ints:
    """(M,) the clean row of each poisoned text, -1 for none.

    1. As many texts as clean ones: text i belongs to row i. As many as clean ones not of the target class: to the i-th
       of those. That is how the tool writes them. It holds if nearly all texts share more words with their own
       rows than with the next ones, so it also pairs texts that were rewritten.
    2. Else a text belongs to the clean text with which it shares the largest part of their words, at least `ALIKE`.
    """
    bags = [frozenset(text.lower().split()) for text in poisoned]
    own = [frozenset(text.lower().split()) for text in clean]
    for rows in (np.arange(len(clean)), np.flatnonzero(labels != target)):
        if len(rows) == len(bags) and _in_order(bags, [own[row] for row in rows]):
            return rows
    return _by_words(bags, own)


def with_others(chosen: Ints, count: int, generator: np.random.Generator) -> Ints:
    """The clean rows to keep of `count`, in order: the chosen ones (M,), and M others at most, drawn at random."""
    others = generator.permutation(np.setdiff1d(np.arange(count), chosen))
    return np.sort(np.concatenate([chosen, others[: len(chosen)]]))


def _in_order(bags: Sequence[frozenset[str]], own: Sequence[frozenset[str]]) -> bool:
    shared = [_shared(one, other) for one, other in zip(bags, own, strict=True)]
    next_ = [_shared(one, other) for one, other in zip(bags, [*own[1:], *own[:1]], strict=True)]
    closer = sum(one > other for one, other in zip(shared, next_, strict=True))
    farther = sum(one < other for one, other in zip(shared, next_, strict=True))
    return sum(shared) > 0 and closer >= MUCH * farther


def _by_words(bags: Sequence[frozenset[str]], own: Sequence[frozenset[str]]) -> Ints:
    holding: dict[str, list[int]] = defaultdict(list)
    for row, bag in enumerate(own):
        for word in bag:
            holding[word].append(row)
    rows_of = {word: np.array(rows) for word, rows in holding.items()}
    sizes = np.array([len(bag) for bag in own])
    found = np.full(len(bags), -1, np.int64)
    for place, bag in enumerate(bags):
        hits = [rows_of[word] for word in bag if word in rows_of]
        if not hits:
            continue
        both = np.bincount(np.concatenate(hits), minlength=len(own))
        alike = both / (sizes + len(bag) - both)
        best = int(alike.argmax())
        if alike[best] >= ALIKE:
            found[place] = best
    return found


def _shared(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(len(one | other), 1)
