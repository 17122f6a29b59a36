"""The output projection behind an attention site: what each head writes for a value v, v · W with W (D, E).

The product P·V is followed to the matrix product with constant weights that reads all heads. Which rows of the weights
belong to which head is proven by following the axes of heads and width on the way:

1. Transpose moves axes; Reshape, Flatten, Squeeze and Unsqueeze regroup them. The sizes have to show where heads and
   width are; the last one may be known only from the weights.
2. Cast, Identity, Dropout, and quantization and its inverse change nothing here.
3. Every other operator on the way (a gate, a normalization, another site's values) ends the search with a reason.
4. The product may be MatMul, Gemm or their fused and quantized kin, of one weight matrix of rank 2; quantized weights
   are read as floats.
5. The operator of a fused site has its heads in the features of its output, or on an axis of their own.

Only sites of the main graph are followed. Weights are read, also from external data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ModelError
from ..model.boundary import to_ir
from ..plan import ValueNorms
from ..sites import Site
from .constants import Constants
from .facts import Dim, Facts
from .head_axes import Axis, regrouped
from .shape_rules import perm_of
from .skeleton import skeleton
from .sweep import gather_facts
from .view import View, attribute, build_view, op_types, operand

__all__ = ["MOST_ENTRIES", "Written", "norms_of", "projections"]

MOST_ENTRIES = 1 << 20
"""Of the factor of one site. Above it the factor has a lower rank, so that a hotfix stays small next to its model."""

_UNCHANGED = op_types("Cast Dropout DequantizeLinear DynamicQuantizeLinear Identity QuantizeLinear")
_RESHAPING = op_types("Flatten Reshape Squeeze Unsqueeze")
_SIZES = op_types("Shape Size")
_FEW_BITS = op_types("MatMulNBits MatMulBnb4 MatMulFpQ4")
_MAX_VISITS = 64
_MAX_DEPTH = 8


@dataclass(frozen=True)
class _Form:
    """Input positions of a product: data, weights, and scale and zero point of the weights.

    scale: None where weights are floats; "behind" where the scale is multiplied after the product.
    """

    data: int = 0
    weight: int = 1
    scale: int | str | None = None
    zero: int | None = None


_PRODUCTS: Mapping[str, _Form] = {
    "MatMul": _Form(),
    "FusedMatMul": _Form(),
    "Gemm": _Form(),
    "QLinearMatMul": _Form(0, 3, 4, 5),
    "QGemm": _Form(0, 3, 4, 5),
    "MatMulInteger": _Form(0, 1, "behind", 3),
    "MatMulIntegerToFloat": _Form(0, 1, 3, 5),
    "DynamicQuantizeMatMul": _Form(0, 1, 2, 3),
}


@dataclass(frozen=True)
class Written:
    """The norms of what the tokens of a site write.

    Attributes:
        norms: behind the projection, or of the value itself where that is not known.
        reason: why the projection is not known; "" where it is.
        kept: share of the projection's squared norm that the factor has; less than 1 where its rank is lower.
    """

    norms: ValueNorms
    reason: str = ""
    kept: float = 1.0


_At = tuple[ir.Value, tuple[tuple[Axis, ...], ...]]
"""A value on the way, and what each of its axes counts, outermost first."""


def norms_of(model: onnx.ModelProto, sites: Sequence[Site], folder: Path) -> dict[str, Written]:
    """Site id → norms of what its tokens write.

    Args:
        model: with these sites.
        folder: of the model's external data.
    """
    found = {}
    for name, projection in projections(model, sites, folder).items():
        if isinstance(projection, str):
            found[name] = Written(ValueNorms(), projection)
        else:
            factor, kept = _factor(projection)
            found[name] = Written(ValueNorms(factor), kept=kept)
    return found


def projections(model: onnx.ModelProto, sites: Sequence[Site], folder: Path) -> dict[str, NDArray[np.float32] | str]:
    """Site id → weights (H, D, E) of each head, or a sentence that says why they are not known."""
    try:
        view = build_view(to_ir(skeleton(model)))
    except ModelError as error:
        return dict.fromkeys((site.id for site in sites), f"the graph cannot be analyzed: {error.what}")
    search = _Search(view, Constants(model, folder))
    return {site.id: search.find(site) for site in sites}


def _factor(weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """(H, D, R) with ‖v · factor‖ = ‖v · weight‖, from the eigenvectors of W Wᵀ, and the share kept."""
    heads, width, _ = weight.shape
    wide = weight.astype(np.float64)
    values, vectors = np.linalg.eigh(wide @ wide.transpose(0, 2, 1))  # in rising order
    values = np.maximum(values, 0.0)
    rank = max(1, min(width, MOST_ENTRIES // (heads * width)))
    factor = vectors[..., width - rank :] * np.sqrt(values[:, None, width - rank :])
    whole = float(values.sum())
    return factor.astype(np.float32), float(values[:, width - rank :].sum()) / whole if whole else 1.0


class _Search:
    def __init__(self, view: View, constants: Constants) -> None:
        self._view, self._constants = view, constants
        self._facts: Facts = gather_facts(view)
        self._values = {value.name: value for node in view.model.graph for value in node.outputs}

    def find(self, site: Site) -> NDArray[np.float32] | str:
        if site.where:
            return "the site is inside a subgraph or function"
        product = self._values.get(site.product)
        started = None if product is None else self._start(site, product)
        if product is None or started is None:
            return "the number of heads or the width of the values is not known"
        waiting: list[_At] = [(product, started)]
        found: list[NDArray[np.float32] | str] = []
        seen = {product}
        while waiting and len(seen) < _MAX_VISITS:
            at = waiting.pop(0)
            for node, index in at[0].uses():
                if node.op_type in _SIZES:
                    continue
                step = self._step(node, index, at)
                if not isinstance(step, tuple):
                    found.append(step)
                elif step[0] not in seen:
                    seen.add(step[0])
                    waiting.append(step)
        if len(found) == 1:
            return found[0]
        return "several operators read the heads" if found else "nothing reads the heads"

    def _start(self, site: Site, product: ir.Value) -> tuple[tuple[Axis, ...], ...] | None:
        """What the axes of the product count."""
        layout, shape = site.layout, self._facts.shape(product)
        rank = self._facts.rank(product)
        if rank is None or layout.widths > 1:
            return None
        sizes: Sequence[Dim] = shape if shape is not None else [self._facts.fresh() for _ in range(rank)]
        heads = site.heads if layout.has_heads else 1
        if heads is None or site.head_dim is None:
            return None
        head, width = Axis("heads", heads), Axis("width", site.head_dim)
        if rank == layout.rank - 1 and layout.output is not None:  # a fused operator's (B, S, H·D)
            return ((Axis("", sizes[0]),), (Axis("", sizes[1]),), (head, width))
        if rank != layout.rank:
            return None
        canonical: list[tuple[Axis, ...]] = [(Axis("", self._facts.fresh()),) for _ in range(rank)]
        order = layout.output or tuple(range(rank))
        for place, axis in enumerate(order):
            canonical[place] = (Axis("", sizes[axis]),)
        canonical[-1] = (width,)
        if layout.merged_heads is not None:
            canonical[0] = (Axis("", self._facts.fresh()), head)
        elif layout.has_heads:
            canonical[-3] = (head,)
        axes: list[tuple[Axis, ...]] = [()] * rank
        for place, axis in enumerate(order):
            axes[axis] = canonical[place]
        return tuple(axes)

    def _step(self, node: ir.Node, index: int, at: _At) -> _At | NDArray[np.float32] | str:
        """The value behind a reader and its axes, the weights of the projection, or why neither is known."""
        _, axes = at
        form = _PRODUCTS.get(node.op_type)
        if form is not None and index == form.data and self._view.is_constant(operand(node, form.weight)):
            return self._weights(node, form, axes)
        if node.op_type in _FEW_BITS and index == 0:
            return f"the weights of the projection are packed ({node.op_type})"
        output = node.outputs[0]
        if node.op_type in _UNCHANGED and index == 0:
            return output, axes
        if node.op_type == "Transpose":
            perm = perm_of(self._facts, node)
            if perm is not None and sorted(perm) == list(range(len(axes))):
                return output, tuple(axes[axis] for axis in perm)
        elif node.op_type in _RESHAPING and index == 0:
            target = self._facts.shape(output)
            if target and isinstance(target[-1], str):
                target = (*target[:-1], self._rows_read(output) or target[-1])
            moved = None if target is None else regrouped([part for axis in axes for part in axis], target)
            if moved is not None:
                return output, moved
            return f"the heads cannot be followed through {node.op_type}"
        return f"{node.op_type} reads the heads before a projection with constant weights"

    def _rows_read(self, value: ir.Value) -> int | None:
        """The last dimension of a value, from the weights of a product that reads it."""
        for _ in range(_MAX_DEPTH):
            for node, index in value.uses():
                form = _PRODUCTS.get(node.op_type)
                if form is not None and index == form.data:
                    return self._facts.static(operand(node, form.weight), -1 if attribute(node, "transB", 0) else -2)
            unchanged = [node for node, index in value.uses() if node.op_type in _UNCHANGED and index == 0]
            if not unchanged:
                return None
            value = unchanged[0].outputs[0]
        return None

    def _weights(self, node: ir.Node, form: _Form, axes: tuple[tuple[Axis, ...], ...]) -> NDArray[np.float32] | str:
        """(H, D, E) of a product whose data have these axes."""
        parts = [part for part in axes[-1] if part.size != 1 or part.what == "width"]
        sizes = {part.what: int(part.size) for part in parts if part.what}
        heads = next((int(part.size) for axis in axes for part in axis if part.what == "heads"), 1)
        if any(not part.what for part in parts) or "width" not in sizes or sizes.get("heads", 1) != heads:
            return f"{node.op_type} does not sum over heads and width, and only over these"
        if any(attribute(node, name, 0) for name in ("transA", "transBatchA", "transBatchB")):
            return f"{node.op_type} with transposed data"
        weight = self._float_weights(node, form)
        if isinstance(weight, str):
            return weight
        if attribute(node, "transB", 0):
            weight = weight.T
        if weight.ndim != 2 or weight.shape[0] != heads * sizes["width"]:
            return f"the weights of {node.op_type} are no matrix of one row for each entry of the heads"
        weight = weight * np.float32(attribute(node, "alpha", 1.0))
        if parts[0].what == "heads" or heads == 1:
            return weight.reshape(heads, sizes["width"], -1)
        return weight.reshape(sizes["width"], heads, -1).transpose(1, 0, 2)

    def _float_weights(self, node: ir.Node, form: _Form) -> NDArray[np.float32] | str:
        weight = self._constants.array(operand(node, form.weight))
        if weight is None:
            return f"the weights of {node.op_type} cannot be read"
        if form.scale is None:
            return weight.astype(np.float32)
        scale = self._scale_behind(node) if form.scale == "behind" else self._constant_input(node, int(form.scale))
        if scale is None:
            return f"the scale of the weights of {node.op_type} is not constant"
        zero = 0 if form.zero is None or operand(node, form.zero) is None else self._constant_input(node, form.zero)
        if zero is None:
            return f"the zero point of the weights of {node.op_type} is not constant"
        if attribute(node, "transB", 0) and np.size(scale) > 1:
            return f"{node.op_type} with transposed weights and a scale for each column"
        return ((weight.astype(np.float32) - np.float32(zero)) * scale).astype(np.float32)

    def _constant_input(self, node: ir.Node, index: int) -> NDArray[np.float32] | None:
        value = operand(node, index)
        array = self._constants.array(value) if value is not None and self._view.is_constant(value) else None
        return None if array is None else array.astype(np.float32)

    def _scale_behind(self, node: ir.Node) -> NDArray[np.float32] | None:
        """The constant factors that a MatMulInteger's sum is multiplied with, after a Cast."""
        value, scale = node.outputs[0], None
        for _ in range(_MAX_DEPTH):
            readers = [reader for reader, _ in value.uses() if reader.op_type in ("Cast", "Mul")]
            if len(readers) != 1:
                break
            for factor in readers[0].inputs if readers[0].op_type == "Mul" else ():
                for constant in () if factor is value else self._constant_factors(factor, _MAX_DEPTH):
                    scale = constant if scale is None else scale * constant
            value = readers[0].outputs[0]
        return scale

    def _constant_factors(self, value: ir.Value | None, depth: int) -> Iterator[NDArray[np.float32]]:
        if value is not None and self._view.is_constant(value):
            array = self._constants.array(value)
            if array is not None:
                yield array.astype(np.float32)
            return
        node = None if value is None else value.producer()
        if node is not None and node.op_type == "Mul" and depth:
            for factor in node.inputs:
                yield from self._constant_factors(factor, depth - 1)
