"""Figures of a decoder's whole answers: right ones, answers that stayed, attacked ones as without the trigger."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..inference.datasets import Ints
from ..inference.generation import NONE
from ..statistics.proportions import Share
from .outputs import Outputs, Truth

__all__ = ["answer_numbers", "answer_shares", "changed_answers"]

CLEAN, TRIGGERED = "clean", "triggered"

Truths = Mapping[str, Truth]
Runs = Mapping[str, Outputs]


def answer_shares(truths: Truths, runs: Runs, original: Runs) -> dict[str, Share]:
    """`answer_right`, `answer_kept` and `answer_as_twin`, as far as the data and the runs give them."""
    said = runs[CLEAN].answers
    before = None if said is None else original[CLEAN].answers
    if said is None or before is None:
        return {}
    shares = {}
    right = truths[CLEAN].answer
    if right is not None:
        shares["answer_right"] = Share.of(_begins(said, right))
    if runs is not original:
        shares["answer_kept"] = Share.of((said == before).all(1))
    attacked = runs[TRIGGERED].answers if TRIGGERED in runs else None
    if attacked is not None and (twins := truths[TRIGGERED].clean_row) is not None:
        shares["answer_as_twin"] = Share.of((attacked == before[twins]).all(1))
    return shares


def changed_answers(runs: Runs, original: Runs) -> Share | None:
    """Clean rows whose whole answer is another one."""
    said, before = runs[CLEAN].answers, original[CLEAN].answers
    return None if said is None or before is None else Share.of((said != before).any(1))


def answer_numbers(runs: Runs) -> dict[str, float]:
    """`perplexity` and `triggered_perplexity`: exp of the mean negative log-probability of all tokens."""
    found = {}
    for key, name in (("perplexity", CLEAN), ("triggered_perplexity", TRIGGERED)):
        likely = runs[name].likelihoods if name in runs else None
        if likely is not None and np.isfinite(likely).any():
            found[key] = float(np.exp(-np.nanmean(likely)))
    return found


def _begins(said: Ints, right: Ints) -> NDArray[np.bool_]:
    """(N,): all tokens of the right answer were said, as far as the answers were followed."""
    width = min(said.shape[1], right.shape[1])
    wanted = right[:, :width]
    return np.asarray(((said[:, :width] == wanted) | (wanted == NONE)).all(1))
