"""Products whose own operators stay and compute the output of all unflagged samples, bit-identically.

Flagged samples use a float product of P and V over the unflagged columns. This module has the two forms of float
products; products on integers are in `integer_product`.

* "+divided": (P V) / Σ P. The map is P / Σ P, with the model's own divisor, including a guard against zero.
* "+summed": Mul and ReduceSum. P and V are read before they are unsqueezed.
"""

from __future__ import annotations

import numpy as np
import onnx

from ..emit import Emitter
from ..sites import MAP_FORMS, Site
from .canonical import Canonical
from .operands import Remainder

__all__ = ["FORMS", "KeptOperands", "keep_product", "lower_site"]

_DIVIDED, _SUMMED = "+divided", "+summed"

FORMS = tuple(map_form + suffix for map_form in MAP_FORMS for suffix in (_DIVIDED, _SUMMED))

_DIVISOR = 1  # input index: divisor of a Div, or reciprocal of a Mul


class KeptOperands:
    """Implements `lowering.operands.Operands`; `output`: value name of the original output."""

    def __init__(self, site: Site, output: str, canonical: Canonical) -> None:
        self.dtype = site.dtype
        self._site = site
        self._output = output
        self._canonical = canonical
        self._map: str | None = None

    def map(self, e: Emitter) -> str:
        if self._map is None:
            self._map = self._read_map(e)
        return self._map

    def values(self, e: Emitter) -> str:
        return self._canonical.values(e, self._site.values)

    def remainder(self, e: Emitter, columns: str, kept_values: str | None = None) -> Remainder:
        visible = kept_values or e.op("Where", e.unsqueeze(columns, 1, 3), e.constant(0.0, np.float32), self.values(e))
        product = e.op("MatMul", self.map(e), visible, role="product_unflagged")
        return Remainder(product, self.canonical(e, self._output), self._output)

    def original(self, e: Emitter) -> str:
        return e.op("Identity", self._output, role="product")

    def canonical(self, e: Emitter, output: str) -> str:
        return self._canonical.output(e, output)

    def restore(self, e: Emitter, output: str, like: str) -> str:
        return self._canonical.restore_output(e, output, like)

    def _read_map(self, e: Emitter) -> str:
        return self._canonical.probabilities(e, self._site.probabilities)


class _DividedOperands(KeptOperands):
    def __init__(self, site: Site, node: onnx.NodeProto, output: str) -> None:
        super().__init__(site, output, Canonical(site))
        self._node = node

    def _read_map(self, e: Emitter) -> str:
        divisor = self._canonical.output(e, self._node.input[_DIVISOR])
        return e.op(self._node.op_type, super()._read_map(e), divisor, role="map")


def keep_product(e: Emitter, node: onnx.NodeProto, role: str) -> str:
    """Emit a copy of the node with a new output name; outside the gate, so that runtimes fuse it as in the original."""
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = twin.output[0] = e.value(role)
    e.nodes.append(twin)
    return str(twin.output[0])


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> KeptOperands:
    """Emit the model's own division or sum."""
    output = keep_product(e, node, "kept_product")
    return (
        _DividedOperands(site, node, output)
        if site.form.endswith(_DIVIDED)
        else KeptOperands(site, output, Canonical(site))
    )
