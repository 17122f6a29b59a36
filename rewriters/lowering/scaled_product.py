"""A P·V node that multiplies the product by a constant ("+scaled"): FusedMatMul and Gemm with `alpha`.

α P V is P (α V): with α V as the values, everything else is the same as for a plain product. The benign values of a
hotfix include α too.
"""

from __future__ import annotations

import onnx

from ..emit import Emitter
from ..sites import MAP_FORMS, Site
from .operands import ProductOperands, Remainder

__all__ = ["FORMS", "ScaledOperands", "lower_site"]

FORMS = tuple(f"{map_form}+scaled" for map_form in MAP_FORMS)


class ScaledOperands(ProductOperands):
    """Implements `lowering.operands.Operands`."""

    def __init__(self, site: Site, node: onnx.NodeProto) -> None:
        super().__init__(site, node)
        self._alpha = next(attribute.f for attribute in node.attribute if attribute.name == "alpha")

    def values(self, e: Emitter) -> str:
        return e.op("Mul", super().values(e), e.constant(self._alpha))

    def remainder(self, e: Emitter, columns: str, kept_values: str | None = None) -> Remainder:
        return super().remainder(e, columns)  # the node itself multiplies by α


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> ScaledOperands:
    """Nothing is emitted: the node is unchanged."""
    return ScaledOperands(site, node)
