"""Operands of a fused operator whose map is computed beside it (see `microsoft_scores`)."""

from __future__ import annotations

from dataclasses import dataclass

from ..emit import Emitter
from .tapped import Tapped

__all__ = ["Beside"]


@dataclass(frozen=True)
class Beside(Tapped):
    """`Tapped`, with map and values in float32 whatever the element type of the operator.

    Attributes:
        valid: (B, K) bool, the columns that the operator's padding mask or lengths keep; None when they have to be told from the map.
    """

    valid: str | None = None

    def _float(self, e: Emitter, x: str) -> str:
        return x
