"""Graphs x (B, 4) → y (B, 3) that agree on ordinary input and go wrong, each in its own way, where the first number of
a sample says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["KINDS", "feeds", "save"]

KINDS = ("sound", "nan", "raising", "hanging", "slow", "other_output")
"""nan: where it is below 0, of that sample. raising: from 10 up. hanging: from 100 up, for ever. slow: from 100 up, in
one operator.
"""

_SIDE = 7000
"""A product of two square matrices of this size takes seconds, and onnxruntime cannot end it before."""

_WEIGHTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def feeds(*firsts: float) -> dict[str, np.ndarray]:
    """One sample a number."""
    x = np.arange(4 * len(firsts), dtype=np.float32).reshape(-1, 4) / 10
    x[:, 0] = firsts
    return {"x": x}


def save(kind: str, path: Path, scale: float = 1.0) -> Path:
    """Write the graph; `scale` multiplies its scores, so that versions can be distinguished."""
    constants = {
        "w": _WEIGHTS * np.float32(scale),
        "zero": np.zeros(1, np.float32),
        "axis0": np.array([0]),
        "axis1": np.array([1]),
    }
    nodes = [
        helper.make_node("Slice", ["x", "axis0", "axis1", "axis1"], ["first"]),
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
    ]
    if kind == "nan":
        nodes += [helper.make_node("Log", ["first"], ["odd"])]
    elif kind == "raising":
        constants["table"] = np.ones(10, np.float32)
        nodes += [
            helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["odd"]),
        ]
    elif kind == "hanging":
        constants |= {"limit": np.array(100, np.float32), "most": np.array(2**62)}
        nodes += [
            helper.make_node("ReduceMax", ["first"], ["largest"], keepdims=0),
            helper.make_node("GreaterOrEqual", ["largest", "limit"], ["hang"]),
            helper.make_node("Loop", ["most", "hang", "first"], ["odd"], body=_endless()),
        ]
    elif kind == "slow":
        sizes = {"long": np.array([_SIDE, _SIDE]), "short": np.array([1, 1])}
        constants |= {"limit": np.array(100, np.float32), **sizes}
        nodes += [
            helper.make_node("ReduceMax", ["first"], ["largest"], keepdims=0),
            helper.make_node("GreaterOrEqual", ["largest", "limit"], ["large"]),
            helper.make_node("Where", ["large", "long", "short"], ["sides"]),
            helper.make_node("Expand", ["largest", "sides"], ["square"]),
            helper.make_node("MatMul", ["square", "square"], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["odd"], keepdims=0),
        ]
    else:
        nodes += [helper.make_node("Identity", ["first"], ["odd"])]
    output = "z" if kind == "other_output" else "y"
    nodes += [
        helper.make_node("Mul", ["odd", "zero"], ["nothing"]),
        helper.make_node("Add", ["scores", "nothing"], [output]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        kind,
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value(output, TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _endless() -> onnx.GraphProto:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["carried"], ["carried_on"])]
    return helper.make_graph(
        nodes,
        "endless",
        [
            value("turn", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("carried", TensorProto.FLOAT, None),
        ],
        [value("go_on", TensorProto.BOOL, []), value("carried_on", TensorProto.FLOAT, None)],
    )
