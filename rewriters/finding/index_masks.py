"""Index-based masks: a padding mask (B, K) that is read entry by entry, as newer exporters write mask[sample, column].

The result counts as the mask only if every entry is proven to be read at its own place, not reversed, shifted or
unknown. An index is followed as a sum of positions along its axes, each multiplied by a product of dimensions:

1. Range(0, n, 1) is the position along its axis; a constant is given by its numbers.
2. Cast, Identity, Expand and operators that add or remove axes of size 1 keep it, Add adds, Mul by one dimension
   multiplies.
3. GatherND reads with a pair (sample, column), Gather from the flattened mask with sample · K + column. No other
   operators count.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from .facts import Dims, Facts
from .monomials import ONE, Monomial, monomial
from .view import View, attribute, op_types, operand

__all__ = ["mask_read_in_place"]

_MAX_STEPS = 48
_MAX_NUMBERS = 1 << 20  # of a constant index
_SAME = op_types("Cast DequantizeLinear Identity QuantizeLinear")
_REFORMED = op_types("Flatten Reshape Squeeze Unsqueeze")

Positions = dict[int, Monomial]
"""Axis → by how much an index grows along it; along other axes it is constant. The first entry is 0."""


def mask_read_in_place(view: View, facts: Facts, value: ir.Value, masks: Collection[ir.Value]) -> ir.Value | None:
    """The mask (B, K) that a value (B, 1, ..., 1, K) holds entry by entry; None where that is not proven."""
    shape = facts.shape(value)
    if shape is None or len(shape) < 2 or any(dim != 1 for dim in shape[1:-1]):
        return None
    read = _back(value, _SAME | _REFORMED)
    node = None if read is None else read.producer()
    if node is None or _without_ones(facts, read) != _without_ones(facts, value):
        return None
    indices, source = operand(node, 1), _back(operand(node, 0), _SAME)
    if node.op_type == "GatherND" and not attribute(node, "batch_dims", 0):
        found = _Indices(view, facts).pair(indices)
    elif (
        node.op_type == "Gather" and not attribute(node, "axis", 0) and (flat := _flattened(facts, source)) is not None
    ):
        found, source = [_Indices(view, facts).counted(indices)], flat
    else:
        return None
    mask, width = _same_rows(facts, source), facts.shape(source)
    if mask not in masks or width is None or len(width) != 2 or None in found:
        return None
    if (shape[0] == 1 and width[0] != 1) or (shape[-1] == 1 and width[1] != 1):
        return None  # one row, or one column, of the mask for all
    samples: Positions = {0: ONE} if shape[0] != 1 else {}
    columns: Positions = {len(samples): ONE} if shape[-1] != 1 else {}
    in_place = [samples, columns] if len(found) > 1 else [{axis: monomial(width[1:]) for axis in samples} | columns]
    return mask if found == in_place else None


def _without_ones(facts: Facts, value: ir.Value | None) -> Dims | None:
    """The dimensions other than 1."""
    shape = facts.shape(value)
    return None if shape is None else tuple(dim for dim in shape if dim != 1)


def _back(value: ir.Value | None, through: Collection[str]) -> ir.Value | None:
    for _ in range(_MAX_STEPS):
        node = None if value is None else value.producer()
        if node is None or node.op_type not in through:
            break
        value = operand(node, 0)
    return value


def _flattened(facts: Facts, value: ir.Value | None) -> ir.Value | None:
    """The value that was reshaped to (B · K, 1, ...)."""
    node, shape = None if value is None else value.producer(), facts.shape(value)
    flat = shape is not None and len(shape) > 0 and all(dim == 1 for dim in shape[1:])
    return (
        _back(operand(node, 0), _SAME) if flat and node is not None and node.op_type in ("Flatten", "Reshape") else None
    )


def _same_rows(facts: Facts, value: ir.Value | None) -> ir.Value | None:
    """The value before the casts and reshapes that made (B, K).

    If a mask has one column for each column of the map, a reshape to (B, K) keeps its rows. Other masks do not fit the
    map.
    """
    for _ in range(_MAX_STEPS):
        node = None if value is None else value.producer()
        if (
            node is None
            or not (node.op_type in _SAME or node.op_type == "Reshape")
            or facts.rank(operand(node, 0)) != 2
        ):
            break
        value = operand(node, 0)
    return value


class _Indices:
    """Follows the indices of one operator, and visits each value once."""

    def __init__(self, view: View, facts: Facts) -> None:
        self._view = view
        self._facts = facts
        self._found: dict[ir.Value, Positions | None] = {}

    def pair(self, indices: ir.Value | None) -> list[Positions | None]:
        """Positions of the two numbers of each index; they lie along the last axis."""
        node, rank = None if indices is None else indices.producer(), self._facts.rank(indices)
        numbers = _numbers(self._view, indices)
        if numbers is not None and numbers.shape[-1:] == (2,):
            return [_counted(part.shape, _steps(part)) for part in (numbers[..., 0], numbers[..., 1])]
        if node is None or rank is None or node.op_type != "Concat" or attribute(node, "axis", 0) not in (-1, rank - 1):
            return [None]
        return [self.counted(part) if self._facts.static(part, -1) == 1 else None for part in node.inputs]

    def counted(self, value: ir.Value | None) -> Positions | None:
        """Positions, with axes counted from the left, without axes of size 1."""
        return _counted(self._facts.shape(value), self.positions(value))

    def positions(self, value: ir.Value | None, depth: int = 0) -> Positions | None:
        """Positions, with negative axes; None where the index is not such a sum."""
        if value is None or depth > _MAX_STEPS:
            return None
        if value not in self._found:
            self._found[value] = None
            numbers = _numbers(self._view, value)
            self._found[value] = self._computed(value, depth) if numbers is None else _steps(numbers)
        return self._found[value]

    def _computed(self, value: ir.Value, depth: int) -> Positions | None:
        node, shape = value.producer(), self._facts.shape(value)
        if node is None or shape is None:
            return None
        if node.op_type == "Range":
            counts = self._facts.ints(operand(node, 0)) == (0,) and self._facts.ints(operand(node, 2)) == (1,)
            return {-1: ONE} if counts else None
        if node.op_type in ("Add", "Mul"):
            return self._added(node, shape, depth) if node.op_type == "Add" else self._multiplied(node, shape, depth)
        source = operand(node, 0)
        old, found = self._facts.shape(source), self.positions(source, depth + 1)
        if old is None or found is None:
            return None
        if node.op_type in ("Cast", "Identity", "Expand"):
            return _broadcast(found, old, shape)
        if node.op_type in _REFORMED and _without_ones(self._facts, source) == _without_ones(self._facts, value):
            places = [axis - len(shape) for axis, dim in enumerate(shape) if dim != 1]
            return {places[axis]: step for axis, step in (_counted(old, found) or {}).items()}
        return None

    def _added(self, node: ir.Node, shape: Dims, depth: int) -> Positions | None:
        total: Positions = {}
        for value in node.inputs:
            old, found = self._facts.shape(value), self.positions(value, depth + 1)
            wide = None if old is None or found is None else _broadcast(found, old, shape)
            if wide is None or total.keys() & wide.keys():
                return None
            total |= wide
        return total

    def _multiplied(self, node: ir.Node, shape: Dims, depth: int) -> Positions | None:
        for value, factor in (node.inputs, node.inputs[::-1]):
            numbers, old = () if factor is None else self._facts.elements.get(factor, ()), self._facts.shape(value)
            found = self.positions(value, depth + 1) if len(numbers) == 1 and numbers[0] != 0 else None
            if found is not None and old is not None:
                return _broadcast({axis: step * monomial(numbers) for axis, step in found.items()}, old, shape)
        return None


def _counted(shape: Dims | None, found: Positions | None) -> Positions | None:
    if shape is None or found is None:
        return None
    wide = [axis - len(shape) for axis, dim in enumerate(shape) if dim != 1]
    return {wide.index(axis): step for axis, step in found.items()}


def _broadcast(found: Positions, old: Dims, shape: Dims) -> Positions | None:
    """The positions after broadcasting; None where an axis may have size 1 and be repeated."""
    return found if all(old[axis] == shape[axis] for axis in found) else None


def _numbers(view: View, value: ir.Value | None) -> np.ndarray | None:
    if value is None or not view.is_constant(value):
        return None
    node = value.producer()
    tensor = value.const_value if node is None else attribute(node, "value") if node.op_type == "Constant" else None
    if (
        tensor is None
        or isinstance(tensor, ir.ExternalTensor)
        or tensor.dtype not in (ir.DataType.INT64, ir.DataType.INT32)
    ):
        return None
    return np.asarray(tensor.numpy()) if 0 < tensor.size <= _MAX_NUMBERS else None


def _steps(numbers: np.ndarray) -> Positions | None:
    steps: Positions = {}
    sums = np.zeros((), numbers.dtype)
    for axis in range(-numbers.ndim, 0):
        along = np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1)[:, 0]
        if len(along) > 1 and along[1] != along[0]:
            steps[axis] = Monomial(int(along[1] - along[0]))
        step = steps[axis].number if axis in steps else 0
        sums = sums[..., None] + step * np.arange(len(along))
    return steps if np.array_equal(sums, numbers) else None
