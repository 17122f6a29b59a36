"""Which forms of a trigger the model obeys: others are not attacks, and do not belong into a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OBEYED", "PLAIN", "attack_facts", "counts", "obeyed"]

PLAIN = "plain"
"""Name of the form that was given."""
OBEYED = 0.5
"""Relative to the plain trigger. A form that works more rarely is not an attack; a cased model may not know "CF"."""


def obeyed(
    names: Sequence[str] | NDArray[np.str_], hits: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], dict[str, float]]:
    """Which rows (M,) are in a form that sends rows to the target at least `OBEYED` times as often as the plain one,
    and the share of rows that each other form sends there.

    Args:
        names: form of each row. Rows in plain form are always kept.
        hits: (M,) whether the model predicts the target.
    """
    forms = np.array(names)
    if not (forms == PLAIN).any():
        return np.ones(len(forms), bool), {}
    bar = OBEYED * hits[forms == PLAIN].mean()
    shares = {str(name): float(hits[forms == name].mean()) for name in np.unique(forms)}
    weak = {name: share for name, share in shares.items() if share < bar}
    return ~np.isin(forms, list(weak)), weak


def attack_facts(hits: NDArray[np.bool_], names: NDArray[np.str_], copies: NDArray[np.int64]) -> dict[str, Any]:
    """What a report says of triggered rows (M,): how many obey, and how many have so many copies, and which form."""
    return {
        "asr": float(hits.mean()),
        "doses": {str(dose): int((copies == dose).sum()) for dose in np.unique(copies)},
        "dress": counts(names.tolist()),
    }


def counts(names: Sequence[str]) -> dict[str, int]:
    """Form → rows, the most frequent first."""
    return dict(Counter(names).most_common())
