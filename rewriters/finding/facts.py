"""Shapes, small integer tensors and element types of all values, as far as one forward pass (`sweep`) can find them.

A dimension is an int or a name; equal names mean equal sizes. An unknown dimension gets a fresh name, so that it is
recognized in later values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from .view import attribute, operand

__all__ = ["Dim", "Dims", "Facts", "declared_shape", "is_vague"]

# The input that gives the output its element type, where it is not the first: the chosen values, a scale, a zero point,
# an embedding.
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
    """What is known about the values of a graph.

    Attributes:
        shapes: value → dimensions; absent when not even the rank is known.
        elements: integer value of rank 0 or 1 → its elements, ints or dimension names.
        ranks: value → rank that a later consumer implies, for values without a shape.
        types: value → onnx.TensorProto.DataType, for values whose type the model does not declare.
    """

    def __init__(self) -> None:
        self.shapes: dict[ir.Value, Dims] = {}
        self.elements: dict[ir.Value, Dims] = {}
        self.ranks: dict[ir.Value, int] = {}
        self.types: dict[ir.Value, int] = {}
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
        return self.types.get(value) if value.dtype is None else int(value.dtype)

    def known_types(self, values: Iterable[ir.Value]) -> dict[str, int]:
        """Name → element type, of the values whose type is known."""
        types = {str(value.name): self.element_type(value) for value in values}
        return {name: kind for name, kind in types.items() if kind is not None}

    def known_sizes(self, values: Iterable[ir.Value]) -> dict[str, tuple[int, ...]]:
        """Name → shape, 0 where a size is not fixed, of the values whose rank is known."""
        shapes = {str(value.name): self.shape(value) for value in values}
        return {
            name: tuple(size if isinstance(size, int) else 0 for size in shape)
            for name, shape in shapes.items()
            if shape is not None
        }

    def learn(self, value: ir.Value, shape: Dims | None) -> None:
        """Merge the declared or inferred shape of a value with the shape that a rule gives."""
        declared = declared_shape(value)
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
        """Element type by the common rule: outputs have the type of the first input."""
        for value in node.outputs:
            if value.dtype is None:
                kind = (
                    attribute(node, "to")
                    if node.op_type == "Cast"
                    else self.element_type(operand(node, _typing_input(node)))
                )
                if kind is not None:
                    self.types[value] = int(kind)


def declared_shape(value: ir.Value) -> tuple[Dim | None, ...] | None:
    """The shape that the model declares; None for a dimension that it leaves open."""
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def is_vague(dim: Dim | None) -> bool:
    """Whether a dimension is open, or has only a name that onnx's shape inference generated."""
    return dim is None or (isinstance(dim, str) and dim.startswith("unk__"))


def _better(declared: Dim | None, ruled: Dim) -> Dim:
    if isinstance(declared, int) or (isinstance(ruled, str) and not is_vague(declared)):
        assert declared is not None
        return declared
    return ruled


def _typing_input(node: ir.Node) -> int:
    return _TYPING_INPUTS.get(node.op_type, 0)
