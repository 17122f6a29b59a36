"""A text encoder of one layer, with everything that may make it none as an option."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

__all__ = ["FUSED", "encoder"]

FUSED = {
    "MultiHeadAttention": ("com.microsoft", ["q", "k", "v"], {"num_heads": 2}, "unidirectional"),
    "Attention": ("", ["q", "k", "v"], {"q_num_heads": 2, "kv_num_heads": 2}, "is_causal"),
}


def encoder(length: int | str = "s", mask: str = "none", fused: str = "", **attributes: int) -> onnx.ModelProto:
    """ids → table → attention to itself, of one head by plain operators, or of two inside one operator."""
    rng, size = np.random.default_rng(0), 4
    constants = {
        "table": rng.normal(size=(20, size)),
        "one": np.array([1]),
        "two": np.array(2),
        "never": np.array(-1e9),
        "zero": np.array(0.0),
    }
    masks = {
        "none": [],
        "causal": [
            helper.make_node("Shape", ["raw"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "two"], ["n"]),
            helper.make_node("Range", ["start", "n", "step"], ["at"]),
            helper.make_node("Unsqueeze", ["at", "one"], ["rows"]),
            helper.make_node("Greater", ["at", "rows"], ["later"]),
            helper.make_node("Where", ["later", "never", "zero"], ["added"]),
        ],
        "by token type": [
            helper.make_node("Equal", ["kinds", "nought"], ["text"]),
            helper.make_node("Cast", ["text"], ["texts"], to=1),
            helper.make_node("Unsqueeze", ["texts", "one"], ["as_columns"]),
            helper.make_node("Unsqueeze", ["texts", "last"], ["as_rows"]),
            helper.make_node("Sub", ["as_columns", "as_rows"], ["differ"]),
            helper.make_node("Abs", ["differ"], ["apart"]),
            helper.make_node("Mul", ["apart", "never"], ["added"]),
        ],
    }[mask]
    constants |= {f"w{part}": rng.normal(size=(size, size)) for part in "qkv"}
    constants |= {"start": np.array(0), "step": np.array(1), "nought": np.array(0), "last": np.array([2])}
    plain = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["raw"]),
        *masks,
        helper.make_node("Add", ["raw", "added"], ["scores"])
        if masks
        else helper.make_node("Identity", ["raw"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["out"]),
    ]
    projections = [helper.make_node("MatMul", ["x", f"w{part}"], [part]) for part in "qkv"]
    if fused:
        domain, operands, options, _ = FUSED[fused]
        plain = [helper.make_node(fused, operands, ["out"], domain=domain, **options, **attributes)]
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), *projections, *plain]
    tensors = [
        onnx.numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)
        for name, array in constants.items()
    ]
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["b", length]) for name in ("ids", "kinds")]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [value for value in inputs if value.name in used],
        [helper.make_tensor_value_info("out", 1, None)],
        [tensor for tensor in tensors if tensor.name in used],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 23 if fused else 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
