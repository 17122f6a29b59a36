"""A product whose map has entries below zero ("+signed"): a difference of maps, as in differential attention with one
product.

A signed row has no sum of weights to move. Its two parts do: C = C⁺ - C⁻, both without an entry below zero. So

    patched = R(C⁺) V - R(C⁻) V,        R the redistribution of `subgraphs.redistribution`

1. Each part is redistributed by itself, within its own sum: what flagged columns gave and what they took away both go
   to the others, and the row keeps its own sum. No entry grows beyond the sum of its part, however near to zero the
   difference of both comes.
2. Detectors read |C|: how much a column counts, whichever way.
3. The product itself stays, and makes the output of all samples that are not flagged, or have no column left that is
   not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..sites import MAP_FORMS, Site
from .canonical import Canonical
from .kept_product import KeptOperands, keep_product
from .operands import Operands, Remainder

__all__ = ["FORMS", "SignedOperands", "lower_site"]

FORMS = tuple(map_form + "+signed" for map_form in MAP_FORMS)


class SignedOperands(KeptOperands):
    """Implements `subgraphs.operands.Operands`, for reading; `parts` are for redistributing."""

    def parts(self, e: Emitter) -> tuple[Operands, Operands]:
        """C⁺ and C⁻, whose outputs are canonical."""
        signed, zero = self._signed(e), e.constant(0.0, np.float32)
        below, opposite = e.op("Less", signed, zero), e.op("Neg", signed)
        given, taken = (
            e.op("Where", below, zero, signed, role="given"),
            e.op("Where", below, opposite, zero, role="taken"),
        )
        return _Part(given, self.values(e)), _Part(taken, self.values(e))

    def difference(self, e: Emitter, given: str, taken: str, columns: str, valid: str | None) -> str:
        """R(C⁺) V - R(C⁻) V in samples that have flagged columns (B, K) and others; else the model's own output."""
        others = e.op("Not", columns) if valid is None else e.op("And", valid, e.op("Not", columns))
        some, rest = (e.op("Greater", e.peak(e.number(mask), 1), e.constant(0.5)) for mask in (columns, others))
        sample = e.unsqueeze(e.op("And", some, rest, role="sample"), 2, 3)
        kept, difference = self.original(e), e.op("Sub", given, taken, role="difference")
        if self.dtype == TensorProto.DOUBLE:
            difference = e.cast(difference, self.dtype)
        return self.restore(e, e.op("Where", sample, difference, self.canonical(e, kept)), kept)

    def _read_map(self, e: Emitter) -> str:
        return e.op("Abs", self._signed(e), role="map")

    def _signed(self, e: Emitter) -> str:
        return self._canonical.probabilities(e, self._site.probabilities)


@dataclass(frozen=True)
class _Part:
    """Implements `subgraphs.operands.Operands` for one part; all is canonical, and float32."""

    part: str
    weighed: str
    dtype: int = TensorProto.FLOAT

    def map(self, e: Emitter) -> str:
        return self.part

    def values(self, e: Emitter) -> str:
        return self.weighed

    def remainder(self, e: Emitter, columns: str) -> Remainder:
        visible = e.op("Where", e.unsqueeze(columns, 1, 3), e.constant(0.0, np.float32), self.weighed)
        product = e.op("MatMul", self.part, visible, role="product_unflagged")
        return Remainder(product, product, product)

    def original(self, e: Emitter) -> str:
        return e.op("MatMul", self.part, self.weighed, role="product")

    def canonical(self, e: Emitter, output: str) -> str:
        return output

    def restore(self, e: Emitter, output: str, like: str) -> str:
        return output


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> SignedOperands:
    """Emit the product itself."""
    return SignedOperands(site, keep_product(e, node, "kept_product"), Canonical(site))
