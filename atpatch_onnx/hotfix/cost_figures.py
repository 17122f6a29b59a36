"""What a fit on clean rows only may cost, and what it does cost, as the evidence of a hotfix has it."""

# No `annotations` from __future__: TypedDict must see at run time which entries are required.

from collections.abc import Sequence
from typing import Literal, TypedDict

__all__ = ["CostFigures", "CostTried"]


class CostTried(TypedDict):
    """One threshold: further runs per clean row, accuracy or share of predictions lost, predictions changed."""

    threshold: float
    most: int
    wider: int
    companion: float
    extra_runs: float
    lost: float
    changed: int


class CostFigures(TypedDict):
    """What a fit on clean rows only was allowed to cost, and what each threshold that was tried does cost."""

    max_accuracy_drop: float
    max_extra_runs: float
    measure: Literal["accuracy", "changed"]
    tried: Sequence[CostTried]
