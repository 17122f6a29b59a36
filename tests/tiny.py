"""A tiny attention model made by hand, and what tests of files and commands need around it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["attention_model", "plain_model", "save_external", "snapshot"]


def attention_model(layers: int = 1, width: int = 8, heads: int = 2, opset: int = 17, seed: int = 0) -> onnx.ModelProto:
    """x (B, S, width) → y, self-attention layers without biases; random weights."""
    rng = np.random.default_rng(seed)
    weights = {
        f"layers.{i}.{name}": rng.standard_normal((width, width)).astype(np.float32)
        for i in range(layers)
        for name in ("q", "k", "v", "o")
    }
    return wire(layers, width, heads, opset, [numpy_helper.from_array(array, name) for name, array in weights.items()])


def wire(layers: int, width: int, heads: int, opset: int, weights: list[TensorProto]) -> onnx.ModelProto:
    """The graph around weights `layers.<i>.<q|k|v|o>`, which may be external."""
    shape = numpy_helper.from_array(np.array([0, 0, heads, width // heads], np.int64), "split")
    joined = numpy_helper.from_array(np.array([0, 0, width], np.int64), "join")
    scale = numpy_helper.from_array(np.array((width // heads) ** -0.5, np.float32), "scale")
    nodes = []

    def op(op_type: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op_type, inputs, [output], name=f"/{output.replace('.', '/')}", **attributes))
        return output

    x = "x"
    for i in range(layers):
        at = f"layers.{i}"
        for name, perm in {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}.items():
            projected = op("MatMul", [x, f"{at}.{name}"], f"{at}.{name}_flat")
            op(
                "Transpose",
                [op("Reshape", [projected, "split"], f"{at}.{name}_split")],
                f"{at}.{name}_heads",
                perm=perm,
            )
        scores = op("Mul", [op("MatMul", [f"{at}.q_heads", f"{at}.k_heads"], f"{at}.scores"), "scale"], f"{at}.scaled")
        probabilities = op("Softmax", [scores], f"{at}.Softmax", axis=-1 if opset >= 13 else 3)
        product = op("MatMul", [probabilities, f"{at}.v_heads"], f"{at}.context")
        merged = op(
            "Reshape", [op("Transpose", [product], f"{at}.context_t", perm=[0, 2, 1, 3]), "join"], f"{at}.merged"
        )
        x = op("MatMul", [merged, f"{at}.o"], "y" if i == layers - 1 else f"{at}.out")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("x", TensorProto.FLOAT, ["batch", "sequence", width])],
        [value("y", TensorProto.FLOAT, ["batch", "sequence", width])],
        [*weights, shape, joined, scale],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="tiny", producer_version="1"
    )


def plain_model() -> onnx.ModelProto:
    """No Softmax at all."""
    value = helper.make_tensor_value_info
    info = [value("x", TensorProto.FLOAT, [2]), value("y", TensorProto.FLOAT, [2])]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "plain", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save_external(model: onnx.ModelProto, path: Path, location: str = "weights.data") -> None:
    """Save with the weights, not the small constants, in one data file."""
    onnx.save_model(model, path, save_as_external_data=True, location=location, size_threshold=200)


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
