"""A graph run in torch, operator by operator: its values, and gradients to its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from atpatch_onnx.debugset import Subject
from atpatch_onnx.debugset.gradients import TorchGraph
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import load_dataset
from atpatch_onnx.inference.sessions import session

from .digits import DIGITS


def test_gradients_of_the_graph_are_those_of_differences() -> None:
    graph, subject = TorchGraph(onnx.load(DIGITS / "model.onnx"), DIGITS), Subject(DIGITS / "model.onnx")
    image = load_dataset(DIGITS / "clean.npz").inputs["pixel_values"][:1]
    x = torch.from_numpy(image).requires_grad_()
    score = graph.run({"pixel_values": x}, ["logits"])["logits"][0, 3]
    score.backward()
    step = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    step *= 0.02 / np.linalg.norm(step)
    ahead, behind = (subject.scores({"pixel_values": image + sign * step})[0, 3] for sign in (1, -1))
    assert float((x.grad * torch.from_numpy(step)).sum()) == pytest.approx((ahead - behind) / 2, rel=0.02, abs=1e-5)


def test_unknown_operators_are_named() -> None:
    node = helper.make_node("FusedThing", ["x"], ["y"], domain="com.example")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    with pytest.raises(AtpatchError, match=r"ATP082.*com\.example\.FusedThing"):
        TorchGraph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), Path())


OPERATORS: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
    ("Slice", [np.ones((2, 3, 4), np.float32).cumsum(2), np.array([-1, 3]), np.array([-99, 0]), np.array([1, 2]),
    np.array([-1, -2])], {}),
    ("Split", [np.arange(10.0, dtype=np.float32).reshape(2, 5), np.array([2, 3])], {"axis": 1}),
    ("Gather", [np.arange(12.0, dtype=np.float32).reshape(3, 4), np.array([[-1, 0], [2, 1]])], {"axis": 1}),
    ("ReduceMean", [np.arange(12.0, dtype=np.float32).reshape(3, 4)], {"axes": [-1], "keepdims": 0}),
    ("CumSum", [np.arange(6.0, dtype=np.float32), np.array(0)], {"exclusive": 1, "reverse": 1}),
    ("Div", [np.array([7, -7]), np.array([2, 2])], {}),
    ("Mod", [np.array([7, -7]), np.array([3, 3])], {}),
    ("Trilu", [np.ones((3, 3), np.float32), np.array(1)], {"upper": 0}),
    ("Conv", [np.ones((1, 1, 5, 5), np.float32), np.ones((1, 1, 3, 3), np.float32)], {"auto_pad": "SAME_UPPER",
    "strides": [2, 2]}),
    ("MaxPool", [np.arange(16.0, dtype=np.float32).reshape(1, 1, 4, 4)], {"kernel_shape": [3, 3], "pads": [1, 1, 1,
    1], "strides": [2, 2]}),
    ("AveragePool", [np.ones((1, 1, 4, 4), np.float32)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("Pad", [np.ones((2, 3), np.float32), np.array([0, 1, 1, 0]), np.array(5.0, np.float32)], {}),
    ("OneHot", [np.array([1, -1]), np.array(3), np.array([0.0, 2.0], np.float32)], {"axis": 0}),
    ("GatherND", [np.arange(8.0, dtype=np.float32).reshape(2, 4), np.array([[0, 1], [1, 3]])], {}),
    ("ScatterND", [np.zeros((3, 2), np.float32), np.array([[1], [2]]), np.ones((2, 2), np.float32)], {}),
    ("Where", [np.array([True, False]), np.ones(2, np.float32), np.zeros(2, np.float32)], {}),
    ("DepthToSpace", [np.arange(16.0, dtype=np.float32).reshape(1, 4, 2, 2)], {"blocksize": 2}),
    ("Gemm", [np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), np.ones(4, np.float32)], {"transB": 1,
    "alpha": 0.5, "beta": 2.0}),
    ("Softmax", [np.arange(6.0, dtype=np.float32).reshape(2, 3)], {"axis": 0}),
    ("Einsum", [np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)], {"equation": "ij, jk -> ik"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arrays", "attributes"), OPERATORS, ids=[entry[0] for entry in OPERATORS])
def test_operators_compute_what_onnxruntime_computes(
    name: str, arrays: list[np.ndarray], attributes: dict[str, Any]
) -> None:
    count = 2 if name == "Split" else 1
    outputs = [f"y{index}" for index in range(count)]
    names = [f"x{index}" for index in range(len(arrays))]
    kind = helper.np_dtype_to_tensor_dtype(arrays[1].dtype if name == "Where" else arrays[0].dtype)
    if name == "OneHot":
        kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(name, names, outputs, **attributes)],
        "one",
        [helper.make_tensor_value_info("x0", helper.np_dtype_to_tensor_dtype(arrays[0].dtype), arrays[0].shape)],
        [helper.make_tensor_value_info(output, kind, None) for output in outputs],
        [numpy_helper.from_array(array, given) for given, array in zip(names[1:], arrays[1:], strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    wanted = session(model, threads=1).run(None, {"x0": arrays[0]})
    found = TorchGraph(model, Path()).run({"x0": torch.from_numpy(arrays[0])}, outputs)
    for output, array in zip(outputs, wanted, strict=True):
        assert found[output].shape == array.shape and np.allclose(found[output].numpy(), array, atol=1e-6)
