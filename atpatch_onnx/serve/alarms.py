"""Alarms of the patched arm: which samples raise one, and what happens to their request.

1. An alarm is told: in the answer's parameters, in the log, in the metrics. It changes no answer.
2. With `--on-alarm refuse` a request gets an error instead of the patched arm's answer if any of its samples raises an
   alarm. The whole request is refused: an answer has one tensor for all samples, and a client that reads a filled-up
   row as an answer would take it for one. The error names the samples, so that the others can be sent again.
3. A score that is no finite number is an alarm, as in the graph. Files that were patched before the graph did so get
   the same here.
4. A patch that is turned off raises no alarm, and the original has none: neither is ever refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arms import ArmFault, Result
from .tensors import Array

__all__ = ["alarm_parameters", "alarms_of", "refuse_alarms", "rows_of"]

_MOST_NAMED = 64
"""Samples that an answer names; a larger batch is served only where somebody has asked for it."""


def alarms_of(result: Result | None, samples: int) -> list[bool] | None:
    """Whether each sample raises an alarm; None where the patched arm did not run, or has none.

    Args:
        result: of the patched arm.
        samples: of the request.
    """
    if result is None or result.alarm_scores is None:
        return None
    scores: Array = result.alarm_scores.reshape(samples, -1)
    calm = np.isfinite(scores) & (scores <= 0)
    return [not row.all() for row in calm]


def refuse_alarms(result: Result, samples: int) -> None:
    """Raises: ArmFault "alarm" where a sample raises one."""
    rows = [row for row, alarm in enumerate(alarms_of(result, samples) or ()) if alarm]
    if rows:
        raise ArmFault("alarm", rows_of(rows))


def alarm_parameters(alarms: Sequence[bool] | None) -> dict[str, Any]:
    """Of an answer: `alarm`, whether any sample raises one, and `alarm_rows`, which; nothing where it is not known."""
    rows = [row for row, alarm in enumerate(alarms or ()) if alarm]
    if rows:
        return {"alarm": True, "alarm_rows": rows_of(rows)}
    return {} if alarms is None else {"alarm": False}


def rows_of(rows: Sequence[int]) -> str:
    """Numbers of samples from 0, with commas between them."""
    return ",".join(map(str, rows[:_MOST_NAMED])) + (",..." if len(rows) > _MOST_NAMED else "")
