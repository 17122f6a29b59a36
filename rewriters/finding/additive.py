"""Additive (Bahdanau) attention: scores v · tanh(W k + U q), a product with one constant vector.

Graph attention has a LeakyRelu instead of the Tanh. A class head, and pooling by a learned vector, are products with a
constant too. Additive attention differs in the other factor: it is the Tanh of a sum of two computed values that
broadcast against each other. The one without key columns comes from the queries. Instead of a sum it may be one
projection of a Concat of both, where the queries are repeated for every key.
"""

from __future__ import annotations

import onnx_ir as ir

from .facts import Facts
from .products import Operands, product_operands
from .view import View, op_types, operand

__all__ = ["additive_operands"]

_MAX_STEPS = 16
_SKIPPED = op_types(
    "Cast DequantizeLinear Dropout DynamicQuantizeLinear Expand Flatten Identity QuantizeLinear Reshape Squeeze"
    " Transpose Unsqueeze"
)
_REPEATING = op_types("Expand Tile")
_SCALES = op_types("Add Mul")  # by a constant: bias, or the scale of an integer product


def additive_operands(view: View, facts: Facts, factor: ir.Value | None) -> Operands | None:
    """The two summands inside the Tanh that `factor` comes from; None where there is no such sum."""
    tanh = _producer(view, factor)
    if tanh is None or tanh.op_type not in ("Tanh", "LeakyRelu"):
        return None
    node = _producer(view, operand(tanh, 0))
    if node is None:
        return None
    if node.op_type == "Add":
        first, second = operand(node, 0), operand(node, 1)
        a, b = facts.shape(first), facts.shape(second)
        return None if a is not None and a == b else Operands(first, second)
    factors = product_operands(node)
    if factors is None or view.is_constant(factors.first) == view.is_constant(factors.second):
        return None
    joined = _producer(view, factors.second if view.is_constant(factors.first) else factors.first)
    if joined is None or joined.op_type != "Concat":
        return None
    parts = [part for part in joined.inputs if part is not None and not view.is_constant(part)]
    return Operands(parts[0], parts[1]) if len(parts) == 2 and sum(map(_is_repeated, parts)) == 1 else None


def _is_repeated(value: ir.Value) -> bool:
    """Whether a value comes from an Expand or Tile; changes of shape in between are allowed."""
    node = value.producer()
    for _ in range(_MAX_STEPS):
        if node is None or node.op_type not in _SKIPPED | _REPEATING:
            return False
        if node.op_type in _REPEATING:
            return True
        source = operand(node, 0)
        node = None if source is None else source.producer()
    return False


def _producer(view: View, value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value; operators that only move or requantize numbers, biases and scales are skipped."""
    for _ in range(_MAX_STEPS):
        node = None if value is None else value.producer()
        if node is None:
            return None
        if node.op_type in _SKIPPED:
            value = operand(node, 0)
        elif node.op_type in _SCALES and (computed := _data_of(view, node)) is not None:
            value = computed
        else:
            return node
    return None


def _data_of(view: View, node: ir.Node) -> ir.Value | None:
    """The operand of an Add or Mul that is neither a constant nor a scale; None unless there is exactly one."""
    data = [
        value
        for value in node.inputs
        if value is not None and not view.is_constant(value) and not _is_scale(view, value)
    ]
    return data[0] if len(data) == 1 else None


def _is_scale(view: View, value: ir.Value) -> bool:
    """The scale of a DynamicQuantizeLinear, or a product with it."""
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "DynamicQuantizeLinear":
        return value is node.outputs[1]
    return node.op_type == "Mul" and all(
        part is not None and (view.is_constant(part) or _is_scale(view, part)) for part in node.inputs
    )
