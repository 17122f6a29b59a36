"""What every subgraph of a site reads: the canonical map and which of its columns and rows are real."""

from __future__ import annotations

from dataclasses import dataclass

from ..emit import Emitter

__all__ = ["VISIBLE", "MapContext"]

VISIBLE = 1e-30
"""A row sees a column to which the mean over heads gives more than this. Not zero: masks that add -100 (Swin) leave denormal mass."""


@dataclass(frozen=True)
class MapContext:
    """Value names, all float32 unless said otherwise.

    Attributes:
        map: A (B, H, Q, K).
        valid: (B, K) bool, columns that are not padding; None where the site has none (fixed-length inputs).
        self_attention: query row i and key column i are one token, so padded rows are known too.
    """

    map: str
    valid: str | None
    self_attention: bool

    def head_mean(self, e: Emitter) -> str:
        """(B, Q, K), the mean over heads."""
        return e.reduce("Mean", self.map, 1, keepdims=False, role="head_mean")

    def valid_float(self, e: Emitter) -> str | None:
        return None if self.valid is None else e.float(self.valid)

    def length(self, e: Emitter, valid_float: str | None) -> str:
        """Number of valid columns, (B, 1) or (1,)."""
        if valid_float is not None:
            return e.reduce("Sum", valid_float, 1, role="length")
        return e.float(e.dims(self.map, 3))

    def per_column(self, e: Emitter, x: str) -> str:
        """Give x, broadcastable to (B, K), that full shape."""
        batch = e.dims(self.map, 0, 1)
        return e.op("Expand", x, e.shape(batch, e.dims(self.map, 3)))

    def row_mean(self, e: Emitter, valid_float: str | None) -> str:
        """Column means over valid query rows, (B, H, 1, K)."""
        if valid_float is None or not self.self_attention:
            return e.reduce("Mean", self.map, 2, role="column_mean")
        weights = e.op("Div", valid_float, self.length(e, valid_float))
        return e.op("MatMul", e.unsqueeze(weights, 1, 2), self.map, role="column_mean")
