"""Figures of an alarm: how many rows raise it, and what is left of the attacks if such requests are refused.

A refused request has no answer: an attack with an alarm is stopped, and a clean row with one is not predicted right.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..inference.datasets import Ints
from ..statistics import proportions
from ..statistics.proportions import Share
from .attack_figures import attack_shares
from .outputs import Outputs, Truth

__all__ = ["alarm_shares", "alarm_told", "shares_with_refusal"]

CLEAN, TRIGGERED = "clean", "triggered"
REFUSED = -1
"""The prediction of a refused row: no class."""

Truths = Mapping[str, Truth]
Runs = Mapping[str, Outputs]
"""Of one graph: set → outputs."""


def alarm_shares(runs: Runs) -> dict[str, Share]:
    """Rows with an alarm, set by set; nothing of a graph without one."""
    return {f"{name}_alarms": Share.of(run.alarms) for name, run in runs.items() if run.alarms is not None}


def shares_with_refusal(truths: Truths, runs: Runs, original: Runs) -> dict[str, Share]:
    """Accuracy and attack success where requests with an alarm are refused."""
    clean, shares = runs[CLEAN], dict[str, Share]()
    if clean.scores is None or (given := _refused(clean)) is None:
        return {}
    if (labels := truths[CLEAN].labels) is not None:
        shares["accuracy"] = proportions.accuracy(given, labels)
    if TRIGGERED in runs and (attacked := _refused(runs[TRIGGERED])) is not None:
        shares |= attack_shares(truths, attacked, original[CLEAN].predictions)
    shares.pop("recovered", None)
    return {f"{name}_with_refusal": share for name, share in shares.items()}


def alarm_told(runs: Runs, open_rows: NDArray[np.bool_] | None, target: int | None) -> str:
    """One sentence on what refusing would stop, and what it would cost; "" of a graph without an alarm.

    Args:
        open_rows: triggered rows that only an attack sends to the target; None without a triggered set.
        target: of the attack.
    """
    clean = runs[CLEAN].alarms
    if clean is None:
        return ""
    cost = f"{int(clean.sum()):,} of {len(clean):,} clean rows" if clean.any() else "no clean row"
    if open_rows is None or TRIGGERED not in runs or runs[CLEAN].scores is None:
        return f"The alarm is raised by {cost}."
    attacked = runs[TRIGGERED]
    assert attacked.alarms is not None
    left = open_rows & (attacked.predictions == target)
    stopped, count = int((left & attacked.alarms).sum()), int(left.sum())
    if not count:
        return f"No attack is left for the alarm to stop, and {cost} would be refused for it."
    what = "the one attack that is left" if count == 1 else f"the {count:,} attacks that are left"
    many = "none" if not stopped else "all" if stopped == count > 1 else f"{stopped:,}"
    return f"Refusing requests with an alarm stops {many} of {what}, and refuses {cost}."


def _refused(run: Outputs) -> Ints | None:
    """Predictions (N,) where rows with an alarm get none; None of a graph without an alarm."""
    return None if run.alarms is None else np.where(run.alarms, REFUSED, run.predictions)
