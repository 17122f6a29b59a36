"""A table model with a column that is strong by nature, and a pair of cells that can be planted."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FIRST", "SECOND", "STRONG", "table_model"]

STRONG, FIRST, SECOND = 0, 2, 3


def table_model(planted: bool) -> onnx.ModelProto:
    """features (N, 4) → logits (N, 2): column 0 decides; planted: 1 in column 2 with 0 in column 3 does, too."""
    weights = np.zeros((4, 2), np.float32)
    weights[STRONG, 1], weights[1, 1] = 16, 1
    both = np.zeros((4, 1), np.float32)
    both[FIRST], both[SECOND] = 1, -1
    constants = {
        "weights": weights,
        "bias": np.array([0, -12.5], np.float32),
        "both": both,
        "below": np.array([-0.95], np.float32),
        "size": np.array([[0, 800 if planted else 0]], np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["own"]),
        helper.make_node("MatMul", ["features", "both"], ["pair"]),
        helper.make_node("Add", ["pair", "below"], ["above"]),
        helper.make_node("Relu", ["above"], ["strength"]),
        helper.make_node("Mul", ["strength", "size"], ["offset"]),
        helper.make_node("Add", ["own", "offset"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("features", TensorProto.FLOAT, ["N", 4])],
        [value("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test")
