"""P·V on integers: QLinearMatMul ("+qlinear"), MatMulInteger, MatMulIntegerToFloat and DynamicQuantizeMatMul ("+integer").

1. The integer product stays, and makes the output of everything that is not flagged: bit-identical, whatever the rest of the batch does.
2. Flagged samples go through float: P and V from before their quantisers, or dequantised, and a float product over the unflagged columns.
3. QLinearMatMul gives quantised numbers, so what comes out of that is quantised once more, with the product's own scale and zero point.
   (Quantised numbers that are dequantised and quantised again with one scale come back as they were.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..sites import Site
from ..subgraphs.canonical import Canonical
from ..subgraphs.operands import Remainder

__all__ = ["FORMS", "IntegerOperands", "open_site"]

_MAPS = ("softmax", "softmax-flat", "decomposed", "bias-softmax", "qlinear-softmax")
_REQUANTISED = "+qlinear"

FORMS = tuple(map_form + suffix for map_form in _MAPS for suffix in (_REQUANTISED, "+integer"))

_Y_SCALE, _Y_ZERO_POINT = 6, 7


class IntegerOperands:
    """Implements `subgraphs.operands.Operands`; `output`: value name of the original output."""

    def __init__(self, site: Site, node: onnx.NodeProto, output: str) -> None:
        self.dtype = site.dtype
        self._site = site
        self._output = output
        self._scale = (node.input[_Y_SCALE], node.input[_Y_ZERO_POINT]) if site.form.endswith(_REQUANTISED) else None
        self._canonical = Canonical(replace(site, dtype=TensorProto.FLOAT))
        self._map: str | None = None

    def map(self, e: Emitter) -> str:
        if self._map is None:
            self._map = self._canonical.probabilities(e, _dequantised(e, self._site.probabilities, self._site.map_scale))
        return self._map

    def values(self, e: Emitter) -> str:
        return self._canonical.values(e, _dequantised(e, self._site.values, self._site.values_scale))

    def remainder(self, e: Emitter, columns: str) -> Remainder:
        visible = e.op("Where", e.unsqueeze(columns, 1, 3), e.constant(0.0, np.float32), self.values(e))
        product = e.op("MatMul", self.map(e), visible, role="product_unflagged")
        return Remainder(product, self.canonical(e, self._output), self._output)

    def original(self, e: Emitter) -> str:
        return e.op("Identity", self._output, role="product")

    def canonical(self, e: Emitter, output: str) -> str:
        return self._canonical.output(e, _dequantised(e, output, self._scale))

    def restore(self, e: Emitter, output: str, like: str) -> str:
        restored = self._canonical.restore_output(e, output, like)
        return restored if self._scale is None else e.op("QuantizeLinear", restored, *self._scale)


def open_site(e: Emitter, site: Site, node: onnx.NodeProto) -> IntegerOperands:
    """Emit the node that makes the original output; it stays outside the gate, where runtimes fuse it with the integer product."""
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = twin.output[0] = e.value("integer_product")
    e.nodes.append(twin)
    return IntegerOperands(site, node, twin.output[0])


def _dequantised(e: Emitter, x: str, scale: tuple[str, str] | None) -> str:
    return x if scale is None else e.op("DequantizeLinear", x, *filter(None, scale))
