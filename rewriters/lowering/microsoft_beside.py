"""Operands of a fused operator whose map is computed beside it (see `microsoft_scores`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..emit import Emitter
from .tapped import Tapped

__all__ = ["Beside"]


@dataclass(frozen=True)
class Beside(Tapped):
    """`Tapped`, with map and values in float32 whatever the element type of the operator.

    Attributes:
        valid: (B, K) bool, the columns that the operator's padding mask or lengths keep; None when they have to be told
            from the map.
        emit_map: emits the map, where `probabilities` is "": it is not there yet (see `opened`).
        emit_rows: emits rows 0, n, 2n, ... of the map and some more, for n and their numbers; None where only the whole
            map can be had.
    """

    valid: str | None = None
    emit_map: Callable[[Emitter], str] | None = None
    emit_rows: Callable[[Emitter, int, tuple[int, ...]], str] | None = None

    def opened(self, e: Emitter) -> Beside:
        """The same with its map there."""
        return self if self.emit_map is None else replace(self, probabilities=self.emit_map(e), emit_map=None)

    def _float(self, e: Emitter, x: str) -> str:
        return x
