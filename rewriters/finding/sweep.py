"""One forward pass over a model that finds the shape of every value, see `facts`.

onnx's shape inference stops at contrib operators and at shapes that are computed from other shapes. This pass goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from . import shape_arithmetic, shape_rules
from .facts import Dims, Facts, declared_shape, is_vague
from .view import View, attribute, is_standard, operand

__all__ = ["gather_facts"]


def gather_facts(view: View) -> Facts:
    """Go over the main graph, over each function at its first call, then over functions that are never called."""
    facts = Facts()
    _hint_ranks(view, facts)
    swept: set[ir.Function] = set()
    _sweep(view, facts, view.model.graph, swept)
    for function in view.model.functions.values():
        _sweep_function(view, facts, function, (), swept)
    return facts


def _sweep(view: View, facts: Facts, body: ir.Graph | ir.Function, swept: set[ir.Function]) -> None:
    for value in body.inputs:
        if value not in facts.shapes:
            facts.learn(value, None)
    if isinstance(body, ir.Graph):
        for value in body.initializers.values():
            _learn_tensor(facts, value, value.const_value)
    for node in body:
        for found in node.attributes.values():
            if found.type == ir.AttributeType.GRAPH and isinstance(found.value, ir.Graph):
                _sweep(view, facts, found.value, swept)
        function = view.function(node)
        if function is not None:
            _sweep_function(view, facts, function, node.inputs, swept)
        _learn_node(view, facts, node)


def _sweep_function(
    view: View, facts: Facts, function: ir.Function, arguments: Iterable[ir.Value | None], swept: set[ir.Function]
) -> None:
    if function in swept:
        return
    swept.add(function)
    for parameter, argument in zip(function.inputs, arguments, strict=False):
        shape = facts.shape(argument)
        if shape is not None:
            facts.shapes[parameter] = shape
        kind = facts.element_type(argument)
        if kind is not None:
            facts.types[parameter] = kind
    _sweep(view, facts, function, swept)


def _learn_node(view: View, facts: Facts, node: ir.Node) -> None:
    if node.op_type == "Constant" and is_standard(node):
        _learn_constant(facts, node)
        return
    shapes: Sequence[Dims | None] = ()
    if any(_lacks_shape(value) for value in node.outputs):
        shapes = shape_rules.shapes(facts, node)
    for index, value in enumerate(node.outputs):
        shape = shapes[index] if index < len(shapes) else None
        if shape is None:
            shape = next((facts.shapes[same] for same in view.backward.get(value, ()) if same in facts.shapes), None)
        facts.learn(value, shape)
    # After the shapes: elements are followed only for rank 0 and 1.
    elements = shape_arithmetic.elements(facts, node)
    if elements is not None:
        facts.elements[node.outputs[0]] = elements
    facts.learn_type(node)


def _learn_constant(facts: Facts, node: ir.Node) -> None:
    value = node.outputs[0]
    tensor = attribute(node, "value")
    if tensor is not None and hasattr(tensor, "shape"):
        _learn_tensor(facts, value, tensor)
        return
    for name in ("value_int", "value_ints"):
        found = attribute(node, name)
        if found is not None:
            numbers = (found,) if isinstance(found, int) else tuple(found)
            facts.elements[value] = numbers
            facts.shapes[value] = () if name == "value_int" else (len(numbers),)
    if value not in facts.shapes:
        facts.learn(value, () if attribute(node, "value_float") is not None else None)


def _learn_tensor(facts: Facts, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
    if tensor is None:
        facts.learn(value, None)
        return
    shape = tuple(dim if isinstance(dim, int) else facts.fresh() for dim in tensor.shape)
    facts.shapes[value] = shape
    if value.dtype is None:
        facts.types[value] = int(tensor.dtype)
    integral = tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    if integral and len(shape) <= 1 and not isinstance(tensor, ir.ExternalTensor):
        facts.elements[value] = tuple(int(x) for x in tensor.numpy().reshape(-1))


def _hint_ranks(view: View, facts: Facts) -> None:
    """The `perm` of a Transpose gives the rank of its input."""
    for node in view.homes:
        if node.op_type == "Transpose":
            perm, value = attribute(node, "perm"), operand(node, 0)
            if perm is not None and value is not None:
                facts.ranks[value] = len(perm)


def _lacks_shape(value: ir.Value) -> bool:
    """Whether a value lacks a shape, or has dimensions with names that onnx's shape inference generated."""
    declared = declared_shape(value)
    return declared is None or any(is_vague(dim) for dim in declared)
