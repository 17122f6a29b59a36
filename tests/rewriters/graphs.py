"""Small attention graphs, one block each, in the layouts that exporters produce."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from rewriters.finding.finder import find_sites
from rewriters.sites import Site

B, H, Q, K, D = 3, 2, 6, 7, 4
"""Default sizes; tests that need Q = K pass queries=K."""


@dataclass(frozen=True)
class Block:
    """A graph with inputs q, k, v, bias (added to the scores) and outputs p (probabilities), out."""

    model: onnx.ModelProto
    site: Site


def session(model: onnx.ModelProto, *, optimize: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], **controls: np.ndarray) -> dict[str, np.ndarray]:
    live = session(model)
    outputs = [value.name for value in live.get_outputs()]
    return dict(zip(outputs, live.run(outputs, {**feeds, **controls}), strict=True))


def attention_block(
    *, layout: str = "4d", opset: int = 17, dtype: int = TensorProto.FLOAT, ir_version: int = 8
) -> Block:
    """One block in a layout: 4d, 3d, 2d, 5d, merged (B·H leading), transposed (P is operand 1), einsum (heads last)."""
    made, model = _attention_block(layout, opset, dtype, ir_version), onnx.ModelProto()
    model.CopyFrom(made.model)
    return Block(model, made.site)


@functools.cache
def _attention_block(layout: str, opset: int, dtype: int, ir_version: int) -> Block:
    shapes = {
        "4d": (["B", H, "Q", D], ["B", H, "K", D], ["B", 1, "Q", "K"]),
        "3d": (["B", "Q", D], ["B", "K", D], ["B", "Q", "K"]),
        "2d": (["Q", D], ["K", D], ["Q", "K"]),
        "5d": (["B", 2, H, "Q", D], ["B", 2, H, "K", D], ["B", 1, 1, "Q", "K"]),
        "merged": (["BH", "Q", D], ["BH", "K", D], ["B", 1, "Q", "K"]),
        "transposed": (["B", "Q", D], ["B", "K", D], ["B", "Q", "K"]),
        "einsum": (["B", "Q", H, D], ["B", "K", H, D], ["B", 1, "Q", "K"]),
    }
    q_shape, k_shape, bias_shape = shapes[layout]
    rank = len(q_shape)
    swap = [*range(rank - 2), rank - 1, rank - 2]
    if layout == "einsum":
        product = [helper.make_node("Einsum", ["q", "k"], ["raw"], name="qk", equation="bqhd,bkhd->bhqk")]
    else:
        product = [
            helper.make_node("Transpose", ["k"], ["kt"], perm=swap),
            helper.make_node("MatMul", ["q", "kt"], ["raw"], name="qk"),
        ]
    constants = []
    if layout == "merged":
        constants = [
            onnx.numpy_helper.from_array(np.array([-1]), "minus_one"),
            onnx.numpy_helper.from_array(np.array([H]), "heads"),
        ]
        split = [
            helper.make_node("Shape", ["raw"], ["raw_shape"]),
            helper.make_node("Slice", ["raw_shape", "one", "three"], ["rows_columns"]),
            helper.make_node("Concat", ["minus_one", "heads", "rows_columns"], ["four"], axis=0),
            helper.make_node("Reshape", ["raw", "four"], ["split"]),
            helper.make_node("Add", ["split", "bias"], ["scores4"]),
            helper.make_node("Reshape", ["scores4", "raw_shape"], ["scores"]),
        ]
        constants += [onnx.numpy_helper.from_array(np.array([n]), name) for n, name in ((1, "one"), (3, "three"))]
    else:
        split = [helper.make_node("Add", ["raw", "bias"], ["scores"])]
    axis = -1 if opset >= 13 else len(bias_shape) - (1 if layout != "merged" else 2)
    nodes = [*product, *split, helper.make_node("Softmax", ["scores"], ["p"], name="softmax", axis=axis)]
    if layout == "transposed":
        nodes += [
            helper.make_node("Transpose", ["p"], ["pt"], perm=[0, 2, 1]),
            helper.make_node("Transpose", ["v"], ["vt"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["vt", "pt"], ["out"], name="pv"),
        ]
    elif layout == "einsum":
        nodes.append(helper.make_node("Einsum", ["p", "v"], ["out"], name="pv", equation="bhqk,bkhd->bqhd"))
    else:
        nodes.append(helper.make_node("MatMul", ["p", "v"], ["out"], name="pv"))
    info = helper.make_tensor_value_info
    inputs = [
        info("q", dtype, q_shape),
        info("k", dtype, k_shape),
        info("v", dtype, k_shape),
        info("bias", dtype, bias_shape),
    ]
    if ir_version < 4:
        inputs += [info(tensor.name, TensorProto.INT64, list(tensor.dims)) for tensor in constants]
    outputs = [info("p", dtype, [None] * rank), info("out", dtype, [None] * rank)]
    graph = helper.make_graph(nodes, layout, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    sites, rejected = find_sites(model)
    assert len(sites) == 1, rejected
    return Block(model, sites[0])


def feeds(
    layout: str = "4d", *, queries: int = Q, keys: int = K, seed: int = 0, dtype: type = np.float32
) -> dict[str, np.ndarray]:
    """Peaky scores; bias is zero."""
    rng = np.random.default_rng(seed)
    leading = {"4d": (B, H), "3d": (B,), "2d": (), "5d": (B, 2, H), "merged": (B * H,), "transposed": (B,)}
    if layout == "einsum":
        shapes = [(B, n, H, D) for n in (queries, keys, keys)]
    else:
        shapes = [(*leading[layout], n, D) for n in (queries, keys, keys)]
    bias = {
        "4d": (B, 1),
        "einsum": (B, 1),
        "merged": (B, 1),
        "3d": (B,),
        "transposed": (B,),
        "2d": (),
        "5d": (B, 1, 1),
    }[layout]
    arrays = {name: rng.normal(size=shape).astype(dtype) for name, shape in zip("qkv", shapes, strict=True)}
    return {**arrays, "bias": np.zeros((*bias, queries, keys), dtype)}
