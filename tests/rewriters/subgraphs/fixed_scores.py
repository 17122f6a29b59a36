"""A detector that says what a test wants."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from rewriters.plan import OnnxGraph

__all__ = ["scored_by"]


def scored_by(values: list[list[float]]) -> OnnxGraph:
    """A detector with fixed scores (B, K)."""
    given = numpy_helper.from_array(np.float32(values), "given")
    node = helper.make_node("Identity", ["given"], ["score"])
    graph = helper.make_graph(
        [node],
        "d",
        [helper.make_tensor_value_info("map", 1, [None] * 4)],
        [helper.make_tensor_value_info("score", 1, [None, None])],
        [given],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return OnnxGraph(made.SerializeToString())
