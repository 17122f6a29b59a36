"""Evaluating, for a single column, the arithmetic that turns a 0/1 mask into a number that is added to scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .view import View, attribute, op_types, operand

__all__ = ["DATA_FIRST", "MASK_ARITHMETIC", "Evaluator"]

DATA_FIRST = op_types(
    "Cast CastLike DequantizeLinear Expand Flatten Gather GatherND Identity Pad QuantizeLinear Reshape Squeeze"
    " Unsqueeze"
)
"""Operators that pass on the numbers of their first input; other inputs are shapes, axes, indices or scales."""
MASK_ARITHMETIC = DATA_FIRST | op_types(
    "Add And BitwiseAnd BitwiseOr Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Not Or Sub Where"
)
"""Operators a mask may pass on its way to the scores."""

_MAX_DEPTH = 48  # a mask is made in a dozen steps; a longer chain is not a mask

_BINARY: dict[str, Callable[[float, float], float]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: 0.0 if 0.0 in (a, b) else a * b,
    "Equal": lambda a, b: float(a == b),
    "Greater": lambda a, b: float(a > b),
    "GreaterOrEqual": lambda a, b: float(a >= b),
    "Less": lambda a, b: float(a < b),
    "LessOrEqual": lambda a, b: float(a <= b),
    "And": lambda a, b: float(bool(a) and bool(b)),
    "BitwiseAnd": lambda a, b: float(bool(a) and bool(b)),
    "Or": lambda a, b: float(bool(a) or bool(b)),
    "BitwiseOr": lambda a, b: float(bool(a) or bool(b)),
    "Max": max,
    "Min": min,
}


class Evaluator:
    """Evaluates mask arithmetic for one column: the candidate is a number, every unknown boolean is `rest`."""

    def __init__(self, view: View, candidate: ir.Value, mask: float, rest: float) -> None:
        self._view = view
        self._known: dict[ir.Value, float | None] = {candidate: mask}
        self._rest = rest

    def value(self, value: ir.Value | None, depth: int = 0) -> float | None:
        if value is None or depth > _MAX_DEPTH:
            return None
        if value not in self._known:
            # an unfinished value counts as unknown, which also ends cycles in malformed graphs
            self._known[value] = None
            result = self._compute(value, depth)
            if result is None and value.dtype == ir.DataType.BOOL:
                result = self._rest
            self._known[value] = result
        return self._known[value]

    def _compute(self, value: ir.Value, depth: int) -> float | None:
        node = value.producer()
        if node is None or node.op_type == "Constant":
            return _scalar(value if node is None else node)
        if node.op_type not in MASK_ARITHMETIC and node.op_type != "ConstantOfShape":
            return None
        if node.op_type in DATA_FIRST:
            result = self.value(operand(node, 0), depth + 1)
            to_bool = node.op_type == "Cast" and attribute(node, "to") == int(ir.DataType.BOOL)
            return float(bool(result)) if to_bool and result is not None else result
        if node.op_type == "ConstantOfShape":
            filled = attribute(node, "value")
            return 0.0 if filled is None else _first(filled)
        parts = [self.value(source, depth + 1) for source in node.inputs]
        if node.op_type == "Where" and len(parts) == 3:
            return None if parts[0] is None else parts[1] if parts[0] else parts[2]
        if node.op_type == "Not":
            return None if parts[0] is None else float(not parts[0])
        if node.op_type in _BINARY and len(parts) == 2 and parts[0] is not None and parts[1] is not None:
            return _BINARY[node.op_type](parts[0], parts[1])
        return None


def _scalar(source: ir.Value | ir.Node) -> float | None:
    """The only number of a constant; None for inputs and for tensors with several different numbers."""
    if isinstance(source, ir.Value):
        return _first(source.const_value)
    for name in ("value", "value_float", "value_int"):
        found = attribute(source, name)
        if found is not None:
            return float(found) if isinstance(found, (int, float)) else _first(found)
    return None


def _first(tensor: ir.TensorProtocol | None) -> float | None:
    if (
        tensor is None
        or isinstance(tensor, ir.ExternalTensor)
        or tensor.size == 0
        or tensor.dtype == ir.DataType.STRING
    ):
        return None
    numbers = np.unique(np.asarray(tensor.numpy()).astype(np.float64))
    return float(numbers[0]) if numbers.size == 1 else None
