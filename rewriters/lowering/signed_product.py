"""A product whose map has entries below zero ("+signed"): a difference of maps, as in differential attention.

A signed row has no sum of weights to move, but its two parts do: C = C⁺ - C⁻, both without entries below zero. So

    patched = R(C⁺) V - R(C⁻) V,        R the redistribution of `subgraphs.redistribution`

1. Each part is redistributed separately, within its own sum: the positive and the negative weights of flagged columns
   both go to the other columns, and the row keeps its own sum. No entry becomes larger than the sum of its part, even
   if the difference of both parts is close to zero.
2. Detectors read |C|: how much a column counts, with either sign.
3. The product itself stays, and computes the output of samples without a flagged column, or with only flagged columns.
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
    """Implements `lowering.operands.Operands` for reading; `parts` are for redistributing."""

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
        """R(C⁺) V - R(C⁻) V in samples with flagged and unflagged columns (B, K); else the model's own output."""
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
    """Implements `lowering.operands.Operands` for one part; everything is canonical and float32."""

    part: str
    value: str
    dtype: int = TensorProto.FLOAT

    def map(self, e: Emitter) -> str:
        return self.part

    def values(self, e: Emitter) -> str:
        return self.value

    def remainder(self, e: Emitter, columns: str, kept_values: str | None = None) -> Remainder:
        visible = kept_values or e.op("Where", e.unsqueeze(columns, 1, 3), e.constant(0.0, np.float32), self.value)
        product = e.op("MatMul", self.part, visible, role="product_unflagged")
        return Remainder(product, product, product)

    def original(self, e: Emitter) -> str:
        return e.op("MatMul", self.part, self.value, role="product")

    def canonical(self, e: Emitter, output: str) -> str:
        return output

    def restore(self, e: Emitter, output: str, like: str) -> str:
        return output


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> SignedOperands:
    """Emit the product itself."""
    return SignedOperands(site, keep_product(e, node, "kept_product"), Canonical(site))
