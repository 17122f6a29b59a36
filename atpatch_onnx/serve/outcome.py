"""The result of a request: for its client, and for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..decisions import DecisionRow, agreement
from .alarms import alarm_parameters, alarms_of
from .arms import ORIGINAL, PATCHED, ArmName, Result
from .batching import take_rows
from .settings import VERSIONS
from .shadow import differences, predictions
from .tensors import Arrays, TensorSpec

__all__ = ["Answer", "any_flagged", "completed", "flags"]

_MOST_COLUMNS = 64


@dataclass(frozen=True, eq=False)
class Answer:
    """What a client gets.

    `flagged` is None where the patched arm did not answer or does not report flags. `non_finite` counts samples for
    which the patched arm gave NaN or infinity, and the original did not answer instead. `alarms` has one entry a
    sample, see `alarms_of`.
    """

    id: str
    outputs: Arrays
    arm: ArmName
    revision: int
    flagged: bool | None
    non_finite: int = 0
    alarms: Sequence[bool] | None = None

    @property
    def version(self) -> str:
        """Version of the model that answered."""
        return next(version for version, arm in VERSIONS.items() if arm == self.arm)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the response."""
        flagged = {} if self.flagged is None else {"flagged": self.flagged}
        non_finite = {"non_finite": self.non_finite} if self.non_finite else {}
        return {
            "arm": self.arm,
            "revision": self.revision,
            **flagged,
            **alarm_parameters(self.alarms),
            **non_finite,
        }


def completed(
    row: DecisionRow, results: Mapping[ArmName, Result], scores: TensorSpec | None, total: float, status: str | None
) -> DecisionRow:
    """The row of a decision when all of its runs have ended.

    Args:
        row: what was known when the client got its answer.
        results: of the arms that ran.
        scores: the output whose argmax is the prediction.
        total: seconds from request to answer.
        status: of the shadow run, None where there was none to run.
    """
    given = {name: predictions(result.outputs, scores, row.batch) for name, result in results.items()}
    one, two = given.get(ORIGINAL), given.get(PATCHED)
    flagged, columns = flags(results.get(PATCHED), row.batch)
    compared = status == "compared"
    return replace(
        row,
        original=one,
        patched=two,
        flagged=flagged,
        sites=None if columns is None else list(columns),
        columns=columns,
        alarms=alarms_of(results.get(PATCHED), row.batch),
        shadow=status,
        agree=agreement(one, two) if compared and one is not None and two is not None else None,
        difference=differences(results[ORIGINAL].outputs, results[PATCHED].outputs, row.batch) if compared else None,
        latency_original=_milliseconds(results.get(ORIGINAL)),
        latency_patched=_milliseconds(results.get(PATCHED)),
        latency_total=round(total * 1000, 4),
    )


def flags(result: Result | None, samples: int) -> tuple[list[bool | None] | None, dict[str, list[list[int]]] | None]:
    """Samples that were flagged, and where: site → sample → key columns.

    None where the patched arm did not run or does not report flags, and for a sample that was not flagged and gave NaN.
    """
    if result is None or result.columns is None:
        return None, None
    flagged = np.zeros(samples, bool)
    where: dict[str, list[list[int]]] = {}
    for site, mask in result.columns.items():
        if not mask.any() or mask.shape[0] % samples:
            flagged |= bool(mask.any())
            continue
        # Windows of a sample count together.
        rows = [take_rows(mask, sample, sample + 1, samples).any(0) for sample in range(samples)]
        flagged |= [bool(row.any()) for row in rows]
        where[site] = [np.flatnonzero(row)[:_MOST_COLUMNS].tolist() for row in rows]
    judged = np.ones(samples, bool) if result.judged is None else flagged | result.judged
    return [bool(flag) if known else None for flag, known in zip(flagged, judged, strict=True)], where


def any_flagged(flagged: Sequence[bool | None] | None) -> bool | None:
    """Whether any sample of a request was flagged; None where none was, and the flags of some are not known."""
    if flagged is None or (None in flagged and True not in flagged):
        return None
    return True in flagged


def _milliseconds(result: Result | None) -> float | None:
    return None if result is None else round(result.seconds * 1000, 4)
