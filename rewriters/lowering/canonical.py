"""Conversion between a site's own tensor layout and the canonical one.

Canonical: A (B, H, Q, K), V (B, H, K, D), output (B, H, Q, D), all float32. A map of rank 3 is (B, Q, K), or
(B·H, Q, K) with `Layout.merged_heads`. For rank 5 and more, all leading axes except the last are merged to B (windows,
grouped heads); with a single head (`Layout.single_head`) all of them. Rank 2 is one sample with one head. Several width
axes are merged to D.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..emit import Emitter
from ..sites import Site

__all__ = ["EXACT", "Canonical"]

EXACT = (TensorProto.FLOAT, TensorProto.DOUBLE)
"""Element types in which outputs are selected without a cast; all others are exact in float32."""


class Canonical:
    """Emits the conversions of one site."""

    def __init__(self, site: Site) -> None:
        self._layout = site.layout
        self._map = site.probabilities
        self._dtype = site.dtype

    @property
    def keeps_values(self) -> bool:
        """Whether the site's own values are canonical."""
        layout = self._layout
        whole = layout.rank == 4 and not layout.single_head and layout.widths == 1 and not layout.values_lack
        return whole and layout.values is None and self._dtype == TensorProto.FLOAT

    def probabilities(self, e: Emitter, p: str) -> str:
        """P → A (B, H, Q, K)."""
        return self._to_four_axes(e, self._ordered(e, self._to_float(e, p), self._layout.probabilities))

    def values(self, e: Emitter, v: str) -> str:
        """V → (B|1, H|1, K, D); values of rank 4 keep their axes of size 1."""
        ordered = self._one_width(e, self._ordered(e, self._to_float(e, v), self._layout.values))
        rank, lack = self._layout.rank, self._layout.values_lack
        joined = self._merged_count()
        if not lack and not joined:
            return self._to_four_axes(e, ordered)
        whole = e.unsqueeze(ordered, *(axis + rank for axis in lack)) if lack else ordered
        if joined:  # values may be shared along any of the merged axes
            whole = e.op("Expand", whole, e.shape(self._leading(e, joined), *[1] * (rank - joined)))
        # There are no heads to split off where all of B·H share their values.
        return e.unsqueeze(whole, 1) if self._layout.merged_heads else self._to_four_axes(e, whole)

    def output(self, e: Emitter, out: str) -> str:
        """P·V → (B, H, Q, D); double stays double."""
        return self._to_four_axes(e, self._one_width(e, self._ordered(e, self._exact(e, out), self._layout.output)))

    def restore(self, e: Emitter, canonical: str, like: str, permutation: tuple[int, ...] | None) -> str:
        """A canonical tensor → layout and dtype of `like`; `permutation` brings `like` to canonical order."""
        layout = self._layout
        if layout.rank != 4 or layout.single_head or len(permutation or ()) > layout.rank:
            canonical = e.op("Reshape", canonical, e.op("Shape", self._ordered(e, like, permutation)))
        if permutation is not None:
            canonical = e.op("Transpose", canonical, perm=[int(axis) for axis in np.argsort(permutation)])
        return canonical if self._dtype in EXACT else e.cast(canonical, self._dtype)

    def restore_output(self, e: Emitter, canonical: str, like: str) -> str:
        """(B, H, Q, D) → layout and dtype of the P·V output `like`."""
        return self.restore(e, canonical, like, self._layout.output)

    def column_mask(self, e: Emitter, mask: str, p: str) -> str:
        """(B, K) bool → a bool that broadcasts against V in V's own layout."""
        rank, heads = self._layout.rank, self._layout.merged_heads
        if rank == 2:
            mask = e.op("Transpose", mask, perm=[1, 0])
        elif rank == 3 and heads is not None:
            spread = e.op("Expand", e.unsqueeze(mask, 1), e.shape(1, heads, 1))
            mask = e.reshape(spread, -1, e.dims(mask, 1), 1)
        elif rank == 3:
            mask = e.unsqueeze(mask, 2)
        elif self._layout.single_head:
            mask = e.reshape(mask, self._leading(e, rank - 2), e.dims(mask, 1), 1)
        elif rank == 4:
            mask = e.mask_of_values(mask)
        else:
            ordered = self._ordered(e, p, self._layout.probabilities)
            mask = e.reshape(mask, e.dims(ordered, 0, rank - 3), 1, e.dims(mask, 1), 1)
        permutation = self._layout.values
        if self._layout.widths > 1:
            mask = e.unsqueeze(mask, *range(rank, rank + self._layout.widths - 1))
        if permutation is not None:
            extra = max(rank - len(permutation), 0)
            if extra and self._layout.values_lack == (-3,) and rank > 3:
                mask, extra = e.squeeze(mask, rank - 3), 0
            # Leading axes that V lacks are broadcast, and stay first.
            order = [*range(extra), *(extra + int(axis) for axis in np.argsort(permutation))]
            mask = e.op("Transpose", mask, perm=order)
        return mask

    def _to_float(self, e: Emitter, x: str) -> str:
        return x if self._dtype == TensorProto.FLOAT else e.float(x)

    def _exact(self, e: Emitter, x: str) -> str:
        """Float32, or unchanged double: what is not flagged must not lose a bit."""
        return x if self._dtype in EXACT else e.float(x)

    @staticmethod
    def _ordered(e: Emitter, x: str, permutation: tuple[int, ...] | None) -> str:
        return x if permutation is None else e.op("Transpose", x, perm=list(permutation))

    def _one_width(self, e: Emitter, x: str) -> str:
        """All axes after the rows (or columns) merged into one."""
        if self._layout.widths == 1:
            return x
        after = self._layout.rank - 1 - len(self._layout.values_lack)
        return e.op("Reshape", x, e.constant([*[0] * after, -1], np.int64))

    def _merged_count(self) -> int:
        """How many leading axes of a map are merged into one; 0 for none."""
        layout = self._layout
        return layout.rank - 2 if layout.single_head else layout.rank - 3 if layout.rank > 4 else 0

    def _leading(self, e: Emitter, count: int) -> str:
        """Sizes of the first canonical axes of the map."""
        order = self._layout.probabilities or tuple(range(self._layout.rank))
        return e.op("Gather", e.op("Shape", self._map), e.constant(order[:count], np.int64))

    def _to_four_axes(self, e: Emitter, x: str) -> str:
        rank, heads = self._layout.rank, self._layout.merged_heads
        if self._layout.single_head:
            return e.reshape(x, -1, 1, e.dims(x, rank - 2))
        if rank == 4:
            return x
        if rank == 2:
            return e.unsqueeze(x, 0, 1)
        if rank == 3 and heads is None:
            return e.unsqueeze(x, 1)
        if rank == 3:
            return e.reshape(x, -1, heads or 1, e.dims(x, 1))
        return e.reshape(x, -1, e.dims(x, rank - 3))
