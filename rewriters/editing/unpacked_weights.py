"""Weights of a second run in a branch, which onnxruntime must not lay out for its kernels a second time.

When onnxruntime loads a model, each product gets a copy of its constant factor in the order in which its kernel reads
it. A copy of the model in a branch gets its own copies, also where it is never run (MiniLM-L6: 34 of the 50 ms that
two passes add to loading, and 43 MB). A factor that is not constant is laid out when the product runs, which costs
little next to the product of a whole sequence.

So the second run reads each large weight through a Reshape to its own shape, which copies nothing. That shape is made
of a number of the request, or else onnxruntime would compute it at loading and have a constant again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter

__all__ = ["UnpackedWeights"]

_LEAST = 1 << 16
"""Numbers of a weight for which one more operator costs less than one more copy."""
_FACTORS = {"MatMul": 1, "Gemm": 1}
"""Operators → index of the input that is packed."""


class UnpackedWeights:
    """The large float32 weights of a model as its second run reads them.

    Args:
        e: writes in the branch of the second run.
        initializers: of the main graph.
        rows: 1-D, of a size that is known only when the branch runs; None where there is no branch, and nothing to do.
    """

    def __init__(self, e: Emitter, initializers: Iterable[onnx.TensorProto], rows: str | None) -> None:
        self._e, self._rows = e, rows
        self._shapes = {
            tensor.name: tuple(tensor.dims)
            for tensor in initializers
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and np.prod(tensor.dims) >= _LEAST
        }

    def __call__(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The node, whose large weight is read in the new form; its own node is changed."""
        place = _FACTORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if self._rows is not None and place is not None and node.input[place] in self._shapes:
            node.input[place] = self._weight(node.input[place], self._rows)
        return node

    def _weight(self, name: str, rows: str) -> str:
        e, shape = self._e, self._shapes[name]

        def none() -> str:
            size = e.dims(rows, 0)
            return e.op("Sub", size, size, role="none")

        def here() -> str:
            return e.op("Add", e.constant(shape, np.int64), e.once("none", none), role="weight_shape")

        of_shape = e.once(f"weight shape:{shape}", here)
        return e.once(f"weight:{name}", lambda: e.op("Reshape", name, of_shape, role="weight"))
