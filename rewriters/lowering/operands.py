"""How the tensors of one site are read and written, for every form of attention.

A redistribution asks for the map, the values, the product over some columns and the original output; it does not know
their operator or layout. `ProductOperands` is for a plain P·V node. The other modules of `rewriters.lowering` have
operands for the other forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import onnx
from onnx import TensorProto, helper

from ..emit import Emitter
from ..sites import Site
from .canonical import Canonical

__all__ = ["HALF", "KnowsColumns", "Operands", "ProductOperands", "Remainder"]


@dataclass(frozen=True)
class Remainder:
    """The product over the columns that are not flagged.

    Attributes:
        product: canonical, float32.
        untouched: canonical, float32 or double; bit-identical to the original in samples without a flagged column.
        like: an output in the site's own layout and dtype.
    """

    product: str
    untouched: str
    like: str


class Operands(Protocol):
    """Canonical shapes: map (B, H, Q, K), values (B, H, K, D), outputs (B, H, Q, D).

    All are float32, except that double outputs stay double.
    """

    @property
    def dtype(self) -> int:
        """Element type of the output."""
        ...

    def map(self, e: Emitter) -> str:
        """The attention map; it is emitted once, before everything else."""
        ...

    def values(self, e: Emitter) -> str:
        """The values."""
        ...

    def remainder(self, e: Emitter, columns: str, kept_values: str | None = None) -> Remainder:
        """The product without the masked columns, (B, K) bool.

        Args:
            kept_values: (B, H, K, D) float32, 0 in these columns, where they are there already.
        """
        ...

    def original(self, e: Emitter) -> str:
        """The original output, in the site's own layout and dtype."""
        ...

    def canonical(self, e: Emitter, output: str) -> str:
        """An output in the site's own layout → canonical."""
        ...

    def restore(self, e: Emitter, output: str, like: str) -> str:
        """A canonical output → layout and dtype of `like`."""
        ...


@runtime_checkable
class KnowsColumns(Protocol):
    """Operands of an operator that has its own mask or lengths for the real columns."""

    @property
    def valid(self) -> str | None:
        """(B, K) bool; None when only the map shows them."""
        ...


HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


class ProductOperands:
    """A P·V node: MatMul, FusedMatMul, Gemm, Einsum."""

    def __init__(self, site: Site, node: onnx.NodeProto) -> None:
        self.dtype = site.dtype
        self._site = site
        self._node = node
        self._canonical = Canonical(site)
        self._kept: str | None = None
        self._map: str | None = None

    def map(self, e: Emitter) -> str:
        # On a processor without half-precision arithmetic, onnxruntime computes in float32 and drops the casts between
        # neighboring nodes. A product inside an If has no neighbors and would be rounded once more than the original,
        # and so would a map that is read twice.
        if self.dtype in HALF and e.conditional and self._site.quantizer is None and self._kept is None:
            self._kept = self._product(e, self._site.values, "product")
        if self._map is None:
            self._map = self._canonical.probabilities(e, self._site.probabilities)
        return self._map

    def values(self, e: Emitter) -> str:
        return self._canonical.values(e, self._site.values)

    def remainder(self, e: Emitter, columns: str, kept_values: str | None = None) -> Remainder:
        if self._kept is not None:
            visible = kept_values or e.op("Where", e.mask_of_values(columns), e.constant(0.0), self.values(e))
            return Remainder(
                e.op("MatMul", self.map(e), visible, role="product_unflagged"),
                self.canonical(e, self._kept),
                self._kept,
            )
        if kept_values is None or not self._canonical.keeps_values:
            zero = e.constant(0, helper.tensor_dtype_to_np_dtype(self._site.dtype))
            hidden = self._canonical.column_mask(e, columns, self._site.probabilities)
            kept_values = e.op("Where", hidden, zero, self._site.values)
        # Samples without a masked column go through the same kernel with the same numbers.
        product = self._product(e, kept_values, "product_unflagged")
        canonical = self.canonical(e, product)
        single = e.float(canonical) if self.dtype == TensorProto.DOUBLE else canonical
        return Remainder(single, canonical, product)

    def original(self, e: Emitter) -> str:
        if self._kept is not None:
            return e.op("Identity", self._kept)
        # The model's own values; the patch may read a copy of them (`site.values`).
        return self._product(e, self._node.input[1 - self._site.operand], "product")

    def canonical(self, e: Emitter, output: str) -> str:
        return self._canonical.output(e, output)

    def restore(self, e: Emitter, output: str, like: str) -> str:
        return self._canonical.restore_output(e, output, like)

    def _product(self, e: Emitter, values: str, role: str) -> str:
        inputs = list(self._node.input)
        inputs[1 - self._site.operand] = values
        return e.copy(self._node, inputs, role)
