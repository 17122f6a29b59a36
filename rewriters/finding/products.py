"""The P·V product: which operators compute one, and how their operands lie in memory.

`match_product` answers whether an operator contracts a given axis of one operand with a computed other operand:

1. MatMul, FusedMatMul (with its transposes), Gemm of two operands, Einsum of two operands.
2. Products on integers (QLinearMatMul, MatMulInteger, ...), where both factors can be recovered as floats.
3. Mul and ReduceSum, where one factor lacks the width and the other the query rows.
4. A constant other operand is a projection, not a weighing of values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from .einsum import einsum_layout, equation_of
from .facts import Facts
from .kept import Factor, KeptProduct, Summed, read_divided, read_summed
from .quantized import INTEGER_PRODUCTS, read_integer_product
from .refusals import Ended, Refused
from .view import View, attribute, operand

__all__ = ["PRODUCTS", "Ended", "Operands", "Product", "Refused", "match_product", "product_operands", "stored_axis"]

PRODUCTS: dict[str, tuple[int, int]] = {
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "TransposeMatMul": (0, 1),
    "Gemm": (0, 1),
    "FusedGemm": (0, 1),
    "Einsum": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3),
    "MatMulNBits": (0, 1),
}
"""Operator type → positions of its two factors."""

_PATCHABLE = INTEGER_PRODUCTS | {"MatMul", "FusedMatMul", "Gemm", "Einsum"}
_QUANTIZED = ("QGemm", "MatMulNBits")

Perm = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """A P·V product; permutations go from memory to canonical order, axes are negative axes of P in memory.

    Attributes:
        values_lack: negative canonical axes that V does not have (keys and values shared by all heads).
        values_perm, output_perm: longer than `rank` where several axes form the width (see `sites.Layout`).
        kept: further details of a product whose own operators stay.
        scaled: the operator multiplies the product by a constant (`alpha`).
    """

    node: ir.Node
    operand: int
    values: ir.Value
    rank: int
    query_axis: int
    key_axis: int
    probabilities_perm: Perm | None
    values_perm: Perm | None
    output_perm: Perm | None
    values_lack: tuple[int, ...] = ()
    kept: KeptProduct | None = None

    @property
    def widths(self) -> int:
        """Number of axes that together form the width."""
        return 1 if self.values_perm is None else len(self.values_perm) - (self.rank - len(self.values_lack)) + 1

    scaled: bool = False

    def reordered(self, order: Perm) -> Product:
        """The product with its canonical axes in another order; map and values must have all axes."""
        probabilities, values, output = (
            order if perm is None else tuple(perm[axis] for axis in order)
            for perm in (self.probabilities_perm, self.values_perm, self.output_perm)
        )
        return replace(self, probabilities_perm=probabilities, values_perm=values, output_perm=output)


@dataclass(frozen=True)
class Operands:
    """The factors of a product operator."""

    first: ir.Value | None
    second: ir.Value | None


def product_operands(node: ir.Node) -> Operands | None:
    """The two factors of a product; None for other operators, also for an Einsum without exactly two operands."""
    positions = PRODUCTS.get(node.op_type)
    if positions is None or (node.op_type == "Einsum" and len(node.inputs) != 2):
        return None
    return Operands(operand(node, positions[0]), operand(node, positions[1]))


def match_product(view: View, facts: Facts, node: ir.Node, index: int, axis: int) -> Product | Refused | None:
    """The product that input `index` enters with its normalized `axis`; None if this is no factor of a product."""
    if node.op_type == "Mul":
        return _summed(view, facts, node, index, axis)
    positions = PRODUCTS.get(node.op_type)
    if positions is None or index not in positions:
        return None
    if node.op_type == "Einsum" and len(node.inputs) != 2:
        return Refused("product-form", f"an Einsum of {len(node.inputs)} operands")
    side = positions.index(index)
    values = operand(node, positions[1 - side])
    if values is None or view.is_constant(values):
        return Refused("constant-values", f"{node.op_type} with a constant factor")
    if values is operand(node, index):
        return Refused("own-values", f"{node.op_type} of the map with itself")
    if node.op_type in _QUANTIZED:
        return Refused("quantized-product", node.op_type)
    rank = _rank(facts, node, operand(node, index), values)
    if rank is None:
        return Refused("rank", node.op_type)
    if rank < 2 or -axis > rank:
        return Refused("axis", f"{node.op_type} of a rank-{rank} map")
    einsum = node.op_type == "Einsum"
    product = (
        _einsum(facts, node, index, axis, values, rank) if einsum else _matrix(facts, node, side, axis, values, rank)
    )
    if isinstance(product, Refused):
        return product
    if node.op_type not in INTEGER_PRODUCTS:
        plain = product.probabilities_perm is None and product.output_perm is None and not product.scaled
        return replace(product, kept=read_divided(view, facts, node, side, axis)) if plain else product
    integer = read_integer_product(view, facts, node, side)
    return Refused("quantized-product", integer) if isinstance(integer, str) else replace(product, kept=integer)


def _summed(view: View, facts: Facts, node: ir.Node, index: int, axis: int) -> Product | Refused | None:
    read = read_summed(view, facts, node, index, axis)
    if not isinstance(read, Summed):
        return None if read is None else Refused("product-form", read)
    rank = read.rank - 1
    leading = [at for at in range(read.rank) if at not in (read.query, read.key, read.width)]

    def permutation(*last: int, without: int) -> Perm:
        return tuple(at - (at > without) for at in (*leading, *last))

    map_order = permutation(read.query, read.key, without=read.width)
    return Product(
        node=read.node,
        operand=index,
        values=read.values,
        rank=rank,
        query_axis=map_order[-2] - rank,
        key_axis=map_order[-1] - rank,
        probabilities_perm=_unless_identity(map_order),
        values_perm=_unless_identity(permutation(read.key, read.width, without=read.query)),
        output_perm=_unless_identity(permutation(read.query, read.width, without=read.key)),
        kept=KeptProduct("summed", Factor(read.probabilities), Factor(read.values), read.node.outputs[0]),
    )


def _rank(facts: Facts, node: ir.Node, probabilities: ir.Value | None, values: ir.Value) -> int | None:
    """Rank of P, from P itself or from the values or the output."""
    if node.op_type in ("Gemm", "FusedGemm"):
        return 2
    own = facts.rank(probabilities)
    if own is not None or node.op_type == "Einsum":
        return own
    return facts.rank(node.outputs[0]) or facts.rank(values)


def _matrix(facts: Facts, node: ir.Node, side: int, axis: int, values: ir.Value, rank: int) -> Product | Refused:
    form = _unsupported(node)
    if form is not None:
        return Refused("product-form", form)
    values_rank = facts.rank(values) or rank
    if values_rank < 2 or values_rank > rank:
        return Refused("product-form", f"values of rank {values_rank} under a map of rank {rank}")
    logical = _stored_to_logical(node, side, rank)
    logical_values = _stored_to_logical(node, 1 - side, values_rank)
    if side == 1:  # Vᵀ·Pᵀ: canonical except for the order of the last two axes
        logical, logical_values = _swapped(logical), _swapped(logical_values)
    key = logical[-1] - rank
    if axis != key:
        return Refused("axis", f"{node.op_type} contracts axis {key} of the map, the Softmax normalizes axis {axis}")
    output = tuple(range(rank)) if side == 0 else _swapped(tuple(range(rank)))
    return Product(
        node=node,
        operand=PRODUCTS[node.op_type][side],
        values=values,
        rank=rank,
        query_axis=logical[-2] - rank,
        key_axis=key,
        probabilities_perm=_unless_identity(logical),
        values_perm=_unless_identity(logical_values),
        output_perm=_unless_identity(output),
        values_lack=tuple(range(-rank, -values_rank)),
        scaled=attribute(node, "alpha", 1.0) != 1.0,
    )


def _unsupported(node: ir.Node) -> str | None:
    """Why a redistribution cannot work here: an unknown operator, a bias inside it, or a factor of 0; else None."""
    if node.op_type not in _PATCHABLE:
        return node.op_type
    if attribute(node, "alpha", 1.0) == 0:
        return f"{node.op_type} scaled by 0"
    if node.op_type == "Gemm" and operand(node, 2) is not None:
        return "Gemm with a bias"
    return None


def _stored_to_logical(node: ir.Node, side: int, rank: int) -> Perm:
    """Permutation that undoes transA/transB and FusedMatMul's transBatchA/transBatchB."""
    letter = "AB"[side]
    perm = tuple(range(rank))
    if attribute(node, f"transBatch{letter}", 0) and rank > 2:
        perm = (*range(1, rank - 1), 0, rank - 1)
    return _swapped(perm) if attribute(node, f"trans{letter}", 0) else perm


def stored_axis(node: ir.Node, side: int, axis: int) -> int:
    """Where row (-2) or column (-1) `axis` of a matrix factor lies in memory."""
    return -3 - axis if attribute(node, f"trans{'AB'[side]}", 0) else axis


def _swapped(perm: Perm) -> Perm:
    return (*perm[:-2], perm[-1], perm[-2])


def _unless_identity(perm: Perm) -> Perm | None:
    return None if perm == tuple(range(len(perm))) else perm


def _einsum(facts: Facts, node: ir.Node, index: int, axis: int, values: ir.Value, rank: int) -> Product | Refused:
    layout = einsum_layout(equation_of(node), index, rank, facts.rank(values))
    if isinstance(layout, str):
        return Refused("product-form", layout)
    if layout.key != axis + rank:
        return Refused(
            "axis", f"Einsum contracts axis {layout.key - rank} of the map, the Softmax normalizes axis {axis}"
        )
    return Product(
        node=node,
        operand=index,
        values=values,
        rank=rank,
        query_axis=layout.query - rank,
        key_axis=axis,
        probabilities_perm=_unless_identity(layout.probabilities),
        # If the rank differs from P's, the permutation is stored even if it moves nothing: its length is the rank.
        values_perm=layout.values if len(layout.values) != rank else _unless_identity(layout.values),
        output_perm=layout.output if len(layout.output) != rank else _unless_identity(layout.output),
        values_lack=layout.values_lack,
    )
