"""P·V on integers: QLinearMatMul ("+qlinear"); MatMulInteger(ToFloat) and DynamicQuantizeMatMul ("+integer").

1. The integer product stays and computes the output of all unflagged samples: bit-identical, whatever else is in the
   batch.
2. Flagged samples use a float product over the unflagged columns, with P and V from before their quantizers or
   dequantized.
3. QLinearMatMul gives quantized numbers, so the result is quantized again, with the product's own scale and zero point.
   (Dequantizing and quantizing again with the same scale does not change a quantized number.)
"""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..sites import MAP_FORMS, Site
from .canonical import Canonical
from .kept_product import KeptOperands, keep_product

__all__ = ["FORMS", "IntegerOperands", "lower_site"]

_REQUANTIZED = "+qlinear"

FORMS = tuple(map_form + suffix for map_form in MAP_FORMS for suffix in (_REQUANTIZED, "+integer"))

_Y_SCALE, _Y_ZERO_POINT = 6, 7


class IntegerOperands(KeptOperands):
    """Implements `lowering.operands.Operands`; `output`: value name of the original output."""

    def __init__(self, site: Site, node: onnx.NodeProto, output: str) -> None:
        super().__init__(site, output, Canonical(replace(site, dtype=TensorProto.FLOAT)))
        self._scale = (node.input[_Y_SCALE], node.input[_Y_ZERO_POINT]) if site.form.endswith(_REQUANTIZED) else None

    def values(self, e: Emitter) -> str:
        return self._canonical.values(e, _dequantized(e, self._site.values, self._site.values_scale))

    def canonical(self, e: Emitter, output: str) -> str:
        return super().canonical(e, _dequantized(e, output, self._scale))

    def restore(self, e: Emitter, output: str, like: str) -> str:
        restored = super().restore(e, output, like)
        return restored if self._scale is None else e.op("QuantizeLinear", restored, *self._scale)

    def _read_map(self, e: Emitter) -> str:
        return self._canonical.probabilities(e, _dequantized(e, self._site.probabilities, self._site.map_scale))


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> IntegerOperands:
    """Emit the integer product itself."""
    return IntegerOperands(site, node, keep_product(e, node, "integer_product"))


def _dequantized(e: Emitter, x: str, scale: tuple[str, str] | None) -> str:
    return x if scale is None else e.op("DequantizeLinear", x, *filter(None, scale))
