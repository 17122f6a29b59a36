"""Products whose own operators stay and compute all unflagged samples; flagged ones are computed from float factors.

| product | form | taken as the product's output | P, V |
|---|---|---|---|
| on integers | "qlinear", "integer" | see `quantized` | float, or with their scales |
| MatMul (or similar), divided by the map's row sums: (exp(s) v) / Σ exp(s) | "divided" | the quotient | its inputs |
| MatMul (or similar) of a difference of maps | "signed" | its own output | its inputs |
| Mul and ReduceSum: Σ_k P[…, q, k, 1] V[…, 1, k, d] | "summed" | the sum | the inputs of the Unsqueezes |
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .facts import Dims, Facts
from .fractions import divided_by, producer, row_sum, summed_axis
from .shape_rules import axes_of
from .view import View, attribute, operand

__all__ = ["Factor", "KeptProduct", "Summed", "read_divided", "read_summed"]


@dataclass(frozen=True)
class Factor:
    """A factor of the product: a float value (no scale), or a quantized one with scale and zero point (None: zero)."""

    value: ir.Value
    scale: ir.Value | None = None
    zero_point: ir.Value | None = None


@dataclass(frozen=True)
class KeptProduct:
    """See the table above.

    Attributes:
        form: as in the table.
        probabilities, values: P and V.
        output: what is taken as the product's output.
    """

    form: str
    probabilities: Factor
    values: Factor
    output: ir.Value


@dataclass(frozen=True)
class Summed:
    """A product by Mul and ReduceSum. Axes are those of the Mul, not negative.

    Attributes:
        node: the ReduceSum.
        probabilities, values: what was unsqueezed.
        rank: of the Mul's result.
        query, key, width: its axes.
    """

    node: ir.Node
    probabilities: ir.Value
    values: ir.Value
    rank: int
    query: int
    key: int
    width: int


def read_divided(view: View, facts: Facts, product: ir.Node, side: int, key_axis: int) -> KeptProduct | None:
    """The division that follows a product with map `side`, if it divides by that map's own row sums; else None."""
    output, uses = product.outputs[0], list(product.outputs[0].uses())
    probabilities, values = operand(product, side), operand(product, 1 - side)
    if len(uses) != 1 or output.is_graph_output() or probabilities is None or values is None:
        return None
    quotient = uses[0].node
    divisor = divided_by(quotient, output)
    total = row_sum(divisor)
    if (
        total is None
        or operand(total, 0) is not probabilities
        or view.homes[quotient].where != view.homes[product].where
    ):
        return None
    if summed_axis(facts, total, divisor, probabilities) != key_axis:
        return None
    return KeptProduct("divided", Factor(probabilities), Factor(values), quotient.outputs[0])


def read_summed(view: View, facts: Facts, node: ir.Node, index: int, axis: int) -> Summed | str | None:
    """The product at a Mul whose operand `index` is a map.

    Each factor lacks an axis that the other has: the map lacks the width, the values lack the query rows. Returns a
    sentence where the product cannot be read, and None where the Mul is not such a product.
    """
    p, v = operand(node, index), operand(node, 1 - index)
    first, second = facts.shape(p), facts.shape(v)
    if node.op_type != "Mul" or v is None or p is None or first is None or second is None or view.is_constant(v):
        return None
    rank = max(len(first), len(second))
    a, b = _widened(first, rank), _widened(second, rank)
    queries = [at for at in range(rank) if a[at] != 1 and b[at] == 1]
    widths = [at for at in range(rank) if a[at] == 1 and b[at] != 1]
    key = axis + rank
    sums = [
        use.node
        for use in node.outputs[0].uses()
        if use.node.op_type == "ReduceSum" and _sums_over(facts, use.node, axis, rank)
    ]
    if not sums or not queries or not widths or key in queries:
        return None
    unsqueezed = [_unsqueezed(facts, value, rank) for value in (p, v)]
    if (
        len(sums) > 1
        or attribute(sums[0], "keepdims", 1)
        or None in unsqueezed
        or len(list(node.outputs[0].uses())) > 1
    ):
        return "Mul and ReduceSum with other readers, a kept axis, or factors that no Unsqueeze makes"
    (map_value, width), (values, query) = (found for found in unsqueezed if found is not None)
    if width not in widths or query not in queries:
        return "Mul and ReduceSum whose factors lack axes other than width and query rows"
    return Summed(sums[0], map_value, values, rank, query, key, width)


def _widened(shape: Dims, rank: int) -> Dims:
    return (1,) * (rank - len(shape)) + shape


def _sums_over(facts: Facts, node: ir.Node, axis: int, rank: int) -> bool:
    axes = axes_of(facts, node)
    return axes is not None and [at - rank if at >= 0 else at for at in axes] == [axis]


def _unsqueezed(facts: Facts, value: ir.Value, rank: int) -> tuple[ir.Value, int] | None:
    """The value that an Unsqueeze extends by one axis, and that axis."""
    node = producer(value)
    source = None if node is None or node.op_type != "Unsqueeze" else operand(node, 0)
    axes = None if node is None or source is None else axes_of(facts, node)
    return (
        (source, axes[0] % rank)
        if source is not None and axes is not None and len(axes) == 1 and facts.rank(value) == rank
        else None
    )
