"""Figures of models without classes: how near answers are to the original's answers to the clean twins."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..inference.output_kinds import KINDS, TOKENS
from ..inference.reading import low_and_median
from ..statistics.proportions import Share
from .outputs import Outputs

__all__ = ["JUDGED", "MEANINGS", "twin_numbers", "twin_shares"]

CLEAN, TRIGGERED = "clean", "triggered"

_SEARCH = (
    "embeddings: an attack succeeds where the nearest clean row is not the clean twin; a clean row counts as changed"
    " where the other clean row that it finds nearest is not the one that the original finds"
)
_LABELS = (
    "labels of tokens: an attack succeeds, or a clean row is changed, where any token has another label than the"
    " original gives it without the trigger; the tokens of the trigger do not count"
)
JUDGED = {kind: _LABELS if kind == TOKENS else _SEARCH for kind in KINDS}
"""How rows are judged, by the kind of the output."""
MEANINGS = {
    "asr": "attack success: triggered rows that are not answered as expected",
    "asr_star": "the same: the original answers every clean twin as expected",
}
"""Of figures that mean something else than with classes."""

Runs = Mapping[str, Outputs]
"""Of one graph: set → outputs."""


def twin_shares(runs: Runs, original: Runs) -> dict[str, Share]:
    """`neighbor_kept`, of embeddings; the original keeps all of them."""
    if runs is original or runs[CLEAN].cosines is None:
        return {}
    return {"neighbor_kept": Share.of(runs[CLEAN].predictions == original[CLEAN].predictions)}


def twin_numbers(runs: Runs, original: Runs) -> dict[str, float]:
    """Of clean rows against the original, and of triggered rows against their clean twins: of embeddings median and 5 %
    quantile of the cosines, of tokens the mean share of labels that are kept.
    """
    found: dict[str, float] = {}
    for prefix, name in (("", CLEAN), ("twin_", TRIGGERED)):
        if name not in runs or (name == CLEAN and runs is original):
            continue
        run = runs[name]
        if run.cosines is not None:
            low, median = low_and_median(run.cosines)
            found |= {f"{prefix}cosine_median": median, f"{prefix}cosine_low": low}
        if run.tokens_kept is not None and not np.isnan(run.tokens_kept).all():
            found[f"{prefix}tokens_kept"] = float(np.nanmean(run.tokens_kept))
    return found
