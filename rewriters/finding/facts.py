"""Shapes, small integer tensors and element types of every value, as far as one forward sweep can know them.

onnx's own inference stops at contrib operators and at shapes that are computed from other shapes. The sweep here goes
on: a dimension is an int, or a name; equal names mean equal sizes. A dimension nobody knows gets a fresh name, so that
it can still be recognised further on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from . import shape_arithmetic, shape_rules
from .view import View, attribute, is_standard, operand

__all__ = ["Dim", "Dims", "Facts", "gather_facts"]

# The input whose element type the output has, where it is not the first: the chosen values, a scale, a zero point, an
# embedding.
_TYPING_INPUTS = {
    "Where": 1,
    "DequantizeLinear": 1,
    "EmbedLayerNormalization": 2,
    "MatMulIntegerToFloat": 2,
    "QuantizeLinear": 2,
    "QLinearMatMul": 7,
    "QLinearSoftmax": 4,
    "QAttention": 3,
}

Dim = int | str
Dims = tuple[Dim, ...]


class Facts:
    """What is known about values.

    Attributes:
        shapes: value → dimensions; absent when not even the rank is known.
        elements: integer value of rank 0 or 1 → its elements, ints or dimension names.
        ranks: value → rank that a later consumer implies, for values without a shape.
    """

    def __init__(self) -> None:
        self.shapes: dict[ir.Value, Dims] = {}
        self.elements: dict[ir.Value, Dims] = {}
        self.ranks: dict[ir.Value, int] = {}
        self._types: dict[ir.Value, int] = {}
        self._names = itertools.count()

    def fresh(self) -> str:
        return f"?{next(self._names)}"

    def shape(self, value: ir.Value | None) -> Dims | None:
        return None if value is None else self.shapes.get(value)

    def rank(self, value: ir.Value | None) -> int | None:
        if value is None:
            return None
        shape = self.shapes.get(value)
        return self.ranks.get(value) if shape is None else len(shape)

    def dim(self, value: ir.Value | None, axis: int) -> Dim | None:
        """Dimension at a negative axis."""
        shape = self.shape(value)
        return shape[axis] if shape is not None and -axis <= len(shape) else None

    def static(self, value: ir.Value | None, axis: int) -> int | None:
        """Dimension at a negative axis when it is a number."""
        dim = self.dim(value, axis)
        return dim if isinstance(dim, int) else None

    def ints(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Elements of an integer value when all are numbers."""
        found = None if value is None else self.elements.get(value)
        return (
            tuple(x for x in found if isinstance(x, int))
            if found is not None and all(isinstance(x, int) for x in found)
            else None
        )

    def element_type(self, value: ir.Value | None) -> int | None:
        """An onnx.TensorProto.DataType."""
        if value is None:
            return None
        return self._types.get(value) if value.dtype is None else int(value.dtype)

    def learn(self, value: ir.Value, shape: Dims | None) -> None:
        """Merge what the model or onnx says about a value with what a rule says."""
        declared = _declared(value)
        if declared is None and shape is None:
            rank = self.ranks.get(value)
            declared = None if rank is None else (None,) * rank
        if declared is None or (shape is not None and len(shape) != len(declared)):
            merged: Sequence[Dim | None] | None = shape
        elif shape is None:
            merged = declared
        else:
            merged = [_better(a, b) for a, b in zip(declared, shape, strict=True)]
        if merged is not None:
            self.shapes[value] = tuple(self.fresh() if dim is None else dim for dim in merged)

    def learn_type(self, node: ir.Node) -> None:
        """Element type by the common rule that outputs are of the first input's type."""
        for value in node.outputs:
            if value.dtype is None:
                kind = (
                    attribute(node, "to")
                    if node.op_type == "Cast"
                    else self.element_type(operand(node, _typing_input(node)))
                )
                if kind is not None:
                    self._types[value] = int(kind)


def gather_facts(view: View) -> Facts:
    """Sweep the main graph, each function at its first call, then functions that nobody calls."""
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
            facts._types[parameter] = kind
    _sweep(view, facts, function, swept)


def _learn_node(view: View, facts: Facts, node: ir.Node) -> None:
    if node.op_type == "Constant" and is_standard(node):
        _learn_constant(facts, node)
        return
    elements = shape_arithmetic.elements(facts, node)
    if elements is not None:
        facts.elements[node.outputs[0]] = elements
    shapes: Sequence[Dims | None] = ()
    if any(_wanting(value) for value in node.outputs):
        shapes = shape_rules.shapes(facts, node)
    for index, value in enumerate(node.outputs):
        shape = shapes[index] if index < len(shapes) else None
        if shape is None:
            shape = next((facts.shapes[same] for same in view.backward.get(value, ()) if same in facts.shapes), None)
        facts.learn(value, shape)
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
        facts._types[value] = int(tensor.dtype)
    integral = tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    if integral and len(shape) <= 1 and not isinstance(tensor, ir.ExternalTensor):
        facts.elements[value] = tuple(int(x) for x in tensor.numpy().reshape(-1))


def _hint_ranks(view: View, facts: Facts) -> None:
    """A Transpose tells the rank of what it reads, whoever made it."""
    for node in view.homes:
        if node.op_type == "Transpose":
            perm, value = attribute(node, "perm"), operand(node, 0)
            if perm is not None and value is not None:
                facts.ranks[value] = len(perm)


def _declared(value: ir.Value) -> tuple[Dim | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def _wanting(value: ir.Value) -> bool:
    """Whether a value lacks a shape, or has dimensions that onnx's inference only numbered."""
    declared = _declared(value)
    return declared is None or any(_vague(dim) for dim in declared)


def _vague(dim: Dim | None) -> bool:
    return dim is None or (isinstance(dim, str) and dim.startswith("unk__"))


def _better(declared: Dim | None, ruled: Dim) -> Dim:
    if isinstance(declared, int) or (isinstance(ruled, str) and not _vague(declared)):
        assert declared is not None
        return declared
    return ruled


def _typing_input(node: ir.Node) -> int:
    return _TYPING_INPUTS.get(node.op_type, 0)
