"""Operands of a fused operator that stays, while its map is computed again next to it (see `microsoft_scores`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..emit import Emitter
from .tapped import Tapped

__all__ = ["Recomputed"]


@dataclass(frozen=True)
class Recomputed(Tapped):
    """`Tapped`, with map and values in float32 for every element type of the operator.

    Attributes:
        valid: (B, K) bool, the columns that the operator's padding mask or lengths keep; None when only the map shows
            them.
        emit_map: emits the map, where `probabilities` is "" because it is not emitted yet (see `with_map`).
        emit_rows: takes n and further row numbers, and emits rows 0, n, 2n, ... of the map and the further rows; None
            where only the whole map can be emitted.
        emit_answer: emits the answer row of the map (B, H, 1, K) (see `plan.Profile`); its padding is `answer_valid`.
    """

    valid: str | None = None
    emit_map: Callable[[Emitter], str] | None = None
    emit_rows: Callable[[Emitter, int, tuple[int, ...]], str] | None = None
    emit_answer: Callable[[Emitter], str] | None = None
    answer_valid: str | None = None

    def with_map(self, e: Emitter) -> Recomputed:
        """The same operands with their map emitted."""
        return self if self.emit_map is None else replace(self, probabilities=self.emit_map(e), emit_map=None)

    def _float(self, e: Emitter, x: str) -> str:
        return x
