"""Scores of every query against every key that are not a matrix product: two values that broadcast against each other.

1. A sum of a part from the queries (…, Q, 1) and a part from the keys (…, 1, K), both computed by projections, as in
   graph attention: a₁ h_i + a₂ h_j. Sums of masks and of positions do not come from projections.
2. A sum over the features of queries (…, Q, 1, D) times keys (…, 1, K, D), or of their differences: Mul (or Sub) and
   ReduceSum.
"""

from __future__ import annotations

import onnx_ir as ir

from .facts import Dims, Facts
from .fractions import producer
from .products import Operands, product_operands
from .shape_rules import axes_of
from .view import View, op_types, operand

__all__ = ["outer_product", "outer_sum"]

_MAX_VISITS = 64
_PER_NUMBER = op_types("Abs Cast Identity Mul Pow Sqrt")
_SKIPPED = op_types(
    "Add Cast DequantizeLinear Div Dropout Elu Expand Flatten Gather Identity LeakyRelu Mul QuantizeLinear Relu Reshape"
    " Slice Split Squeeze Sub Tanh Transpose Unsqueeze"
)
_PROJECTIONS = op_types("Conv ConvInteger QLinearConv MatMulNBits")
_REDUCTIONS = op_types("ReduceL1 ReduceL2 ReduceMean ReduceSum ReduceSumSquare")


def outer_sum(view: View, facts: Facts, node: ir.Node, axis: int) -> Operands | None:
    """The two summands of an Add, along the normalized axis `axis` and another one; None where it is no such sum."""
    first, second = operand(node, 0), operand(node, 1)
    if node.op_type != "Add" or view.is_constant(first) or view.is_constant(second):
        return None
    crossed = _crossed(facts.shape(first), facts.shape(second))
    if crossed is None or axis not in crossed:
        return None
    return Operands(first, second) if all(_is_projected(view, part) for part in (first, second)) else None


def outer_product(view: View, facts: Facts, node: ir.Node) -> Operands | None:
    """The factors of a sum over features of element-wise products or differences; None for other nodes."""
    axes = axes_of(facts, node)
    if node.op_type not in _REDUCTIONS or axes is None or len(axes) != 1:
        return None
    inner = producer(operand(node, 0))
    for _ in range(_MAX_VISITS):
        if inner is None or inner.op_type not in _PER_NUMBER or _factors(view, facts, inner) is not None:
            break
        inner = producer(operand(inner, 0))
    return None if inner is None or inner.op_type not in ("Mul", "Sub") else _factors(view, facts, inner)


def _factors(view: View, facts: Facts, node: ir.Node) -> Operands | None:
    first, second = operand(node, 0), operand(node, 1)
    if node.op_type not in ("Mul", "Sub") or view.is_constant(first) or view.is_constant(second):
        return None
    return Operands(first, second) if _crossed(facts.shape(first), facts.shape(second)) is not None else None


def _crossed(first: Dims | None, second: Dims | None) -> tuple[int, int] | None:
    """An axis along which only `first` varies and one along which only `second` varies; None without such axes."""
    if first is None or second is None:
        return None
    rank = max(len(first), len(second))
    a, b = ((1,) * (rank - len(shape)) + shape for shape in (first, second))
    rows = [axis - rank for axis in range(rank) if a[axis] != 1 and b[axis] == 1]
    columns = [axis - rank for axis in range(rank) if a[axis] == 1 and b[axis] != 1]
    return (rows[-1], columns[-1]) if rows and columns else None


def _is_projected(view: View, value: ir.Value | None) -> bool:
    """Whether a value comes from a product with weights, with only arithmetic and changes of layout in between."""
    waiting, seen = [value], set[ir.Value]()
    while waiting and len(seen) < _MAX_VISITS:
        at = waiting.pop()
        if at is None or at in seen or view.is_constant(at):
            continue
        seen.add(at)
        waiting.extend(view.backward.get(at, ()))
        node = at.producer()
        if node is None:
            continue
        if node.op_type in _PROJECTIONS or product_operands(node) is not None or node.op_type in _REDUCTIONS:
            return True
        if node.op_type in _SKIPPED:
            waiting.extend(node.inputs)
    return False
