"""P·V on integers: where its float factors are or how to recover them, and where its result becomes the product.

| product | form | taken as the product's output |
|---|---|---|
| QLinearMatMul | "qlinear" | its own output, quantized |
| MatMulIntegerToFloat, DynamicQuantizeMatMul | "integer" | its own output, float |
| MatMulInteger | "integer" | the float result after Cast and Mul by both scales |
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx import TensorProto

from .facts import Facts
from .kept import Factor, KeptProduct
from .view import View, attribute, op_types, operand

__all__ = ["INTEGER_PRODUCTS", "read_integer_product"]

INTEGER_PRODUCTS = op_types("QLinearMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul")

_QUANTIZERS = op_types("QuantizeLinear DynamicQuantizeLinear")
_MOVERS = op_types("Identity Reshape Squeeze Transpose Unsqueeze")
_MAX_STEPS = 16
# Positions of (scale, zero point) of the first and the second factor; None where the operator does not say (or the
# factor is a float).
_SCALES: dict[str, tuple[tuple[int | None, int | None], tuple[int | None, int | None]]] = {
    "QLinearMatMul": ((1, 2), (4, 5)),
    "MatMulInteger": ((None, 2), (None, 3)),
    "MatMulIntegerToFloat": ((2, 4), (3, 5)),
    "DynamicQuantizeMatMul": ((None, None), (2, 3)),
}
_POSITIONS = {"QLinearMatMul": (0, 3)}
_QLINEAR_INPUTS = 8
_BIAS = {"MatMulIntegerToFloat": 6, "DynamicQuantizeMatMul": 4}


def read_integer_product(view: View, facts: Facts, node: ir.Node, side: int) -> KeptProduct | str:
    """The product at a node whose factor `side` is the map; a sentence where its factors cannot be recovered."""
    if operand(node, _BIAS.get(node.op_type, len(node.inputs))) is not None:
        return f"{node.op_type} with a bias"
    if node.op_type == "QLinearMatMul" and len(node.inputs) < _QLINEAR_INPUTS:
        return "QLinearMatMul without all its scales"
    factors = [_factor(facts, node, index) for index in (0, 1)]
    if any(factor is None for factor in factors):
        return f"{node.op_type} of a factor whose scale is not a float number"
    first, second = factors
    assert first is not None and second is not None
    output = node.outputs[0]
    if node.op_type == "MatMulInteger":
        scales = [_scale_behind(operand(node, index)) for index in (0, 1)]
        end = None if None in scales else _rescaled(output, [scale for scale in scales if scale is not None])
        if end is None:
            return "MatMulInteger whose sum is not cast to float and multiplied by both scales"
        output = end
    if node.op_type != "QLinearMatMul" and facts.element_type(output) not in (None, TensorProto.FLOAT):
        return f"{node.op_type} with a result other than float32"
    if view.homes[node].where != view.homes[_maker(output)].where:
        return f"{node.op_type} whose result is scaled in another body"
    form = "qlinear" if node.op_type == "QLinearMatMul" else "integer"
    p, v = (first, second) if side == 0 else (second, first)
    return KeptProduct(form, p, v, output)


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _factor(facts: Facts, node: ir.Node, side: int) -> Factor | None:
    """The float value before the quantizer, else the quantized value; None without one scale for the whole tensor."""
    value = operand(node, _POSITIONS.get(node.op_type, (0, 1))[side])
    if value is None:
        return None
    at_scale, at_zero = _SCALES[node.op_type][side]
    if at_scale is None and at_zero is None:
        return Factor(value)
    quantizer = value.producer()
    if quantizer is not None and quantizer.op_type in _QUANTIZERS and value is quantizer.outputs[0]:
        source = operand(quantizer, 0)
        if source is not None and facts.element_type(source) in (None, TensorProto.FLOAT):
            return Factor(source)
    scale = _scale_behind(value) if at_scale is None else operand(node, at_scale)
    if (
        scale is None
        or facts.element_type(scale) not in (None, TensorProto.FLOAT)
        or facts.shape(scale) not in (None, (), (1,))
    ):
        return None
    return Factor(value, scale, None if at_zero is None else operand(node, at_zero))


def _scale_behind(value: ir.Value | None) -> ir.Value | None:
    """The scale of a quantized value; operators that only move numbers are skipped."""
    for _ in range(_MAX_STEPS):
        node = None if value is None else value.producer()
        if node is None:
            return None
        if node.op_type == "DynamicQuantizeLinear":
            return node.outputs[1] if value is node.outputs[0] else None
        if node.op_type == "QuantizeLinear":
            return operand(node, 1)
        if node.op_type not in _MOVERS:
            return None
        value = operand(node, 0)
    return None


def _rescaled(total: ir.Value, scales: Sequence[ir.Value]) -> ir.Value | None:
    """The float product after a Cast and the Mul nodes that multiply by exactly these scales; else None."""
    cast = _only_reader(total)
    if cast is None or cast.op_type != "Cast" or attribute(cast, "to") != TensorProto.FLOAT:
        return None
    value, waiting = cast.outputs[0], list(scales)
    while waiting:
        node = _only_reader(value)
        if node is None or node.op_type != "Mul":
            return None
        factors = _leaves(next((part for part in node.inputs if part is not value), None), waiting)
        for factor in factors:
            if factor not in waiting:
                return None
            waiting.remove(factor)
        value = node.outputs[0]
    return value


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _leaves(value: ir.Value | None, wanted: Sequence[ir.Value], depth: int = _MAX_STEPS) -> list[ir.Value | None]:
    """The factors of a product of scales; a value in `wanted` is not split further."""
    node = None if value is None or value in wanted or not depth else value.producer()
    if node is None or node.op_type != "Mul":
        return [value]
    return [leaf for part in node.inputs for leaf in _leaves(part, wanted, depth - 1)]
