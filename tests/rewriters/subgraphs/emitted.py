"""What a subgraph computes: emitted by itself, and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rewriters.emit import ConstantPool, Emitter

__all__ = ["emitted", "ran"]

Array = NDArray[Any]


def emitted(
    emit: Callable[[Emitter], str], arrays: dict[str, Array], *, opset: int = 17, conditional: bool = True
) -> onnx.ModelProto:
    """A model whose inputs are `arrays`, and whose output is what `emit` makes of them."""
    constants: list[TensorProto] = []
    e = Emitter("site", opset, ConstantPool(constants, "shared"), {}, conditional=conditional)
    result = emit(e)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in arrays.items()
    ]
    graph = helper.make_graph(e.nodes, "g", inputs, [onnx.ValueInfoProto(name=result)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def ran(emit: Callable[[Emitter], str], *, opset: int = 17, conditional: bool = True, **arrays: Array) -> Array:
    """The value that `emit` makes of the arrays, which it reads by their names."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = emitted(emit, arrays, opset=opset, conditional=conditional)
    live = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(live.run(None, {value.name: arrays[value.name] for value in live.get_inputs()})[0])
