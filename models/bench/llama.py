"""Llama-shaped graphs of any size, node by node as an exporter writes them: RMS norm, rotary positions, causal mask,
gated MLP.

52 nodes a layer. Weights are either random and inside, for graphs that are run, or in a data file that is one hole, for
graphs that are only patched: it has its full length and takes no room.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["SHAPES", "Llama", "save_hollow", "save_random"]

POSITIONS = 4096
_BELOW = -1e4
"""Score of a hidden column; within float16."""


@dataclass(frozen=True)
class Llama:
    """Sizes of a model; every head has keys of its own."""

    layers: int
    width: int
    inner: int
    heads: int
    words: int = 32_000
    dtype: int = TensorProto.FLOAT16

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Name → shape, in the order of the data file."""
        square, up = (self.width, self.width), (self.width, self.inner)
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.words, self.width)}
        for layer in range(self.layers):
            own = {"norm1": (self.width,), "q": square, "k": square, "v": square, "o": square}
            own |= {"norm2": (self.width,), "gate": up, "up": up, "down": up[::-1]}
            shapes |= {f"layers.{layer}.{name}": shape for name, shape in own.items()}
        return {**shapes, "norm": (self.width,), "lm_head": (self.width, self.words)}

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.weights.values())


SHAPES: dict[str, Llama] = {
    "1 B": Llama(22, 2048, 5632, 32),
    "3 B": Llama(26, 3200, 8640, 32),
    "7 B": Llama(32, 4096, 11008, 32),
    "13 B": Llama(40, 5120, 13824, 40),
    "80 B": Llama(80, 8192, 28672, 64),
}
"""By their number of parameters."""


def save_random(llama: Llama, path: Path) -> None:
    """With random weights inside; float32, so that onnxruntime's CPU kernels run it as it is."""
    llama = replace(llama, dtype=TensorProto.FLOAT)
    generator = np.random.default_rng(0)
    tensors = []
    for name, shape in llama.weights.items():
        array = np.ones(shape) if len(shape) == 1 else generator.standard_normal(shape) * shape[0] ** -0.5
        tensors.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save_model(_model(llama, tensors), path)


def save_hollow(llama: Llama, path: Path) -> None:
    """With weights in `<path>.data`, a hole of the right length."""
    data = path.with_name(path.name + ".data")
    tensors, offset = [], 0
    for name, shape in llama.weights.items():
        length = int(np.prod(shape)) * helper.tensor_dtype_to_np_dtype(llama.dtype).itemsize
        tensor = TensorProto(name=name, data_type=llama.dtype, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in {"location": data.name, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        offset += length
    with data.open("wb") as file:
        file.truncate(offset)
    onnx.save_model(_model(llama, tensors), path)


class _Graph:
    """Nodes and constants as they come."""

    def __init__(self, dtype: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._float = helper.tensor_dtype_to_np_dtype(dtype)

    def op(self, op_type: str, *inputs: str, out: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [out], name="/" + out.replace(".", "/"), **attributes))
        return out

    def ints(self, *values: int) -> str:
        return self._constant("i_" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self._constant(f"f_{value:g}", np.array(value, self._float))

    def table(self, name: str, array: np.ndarray) -> str:
        return self._constant(name, array.astype(self._float))

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(array, name)
        return name


def _model(llama: Llama, weights: list[TensorProto]) -> onnx.ModelProto:
    g = _Graph(llama.dtype)
    bias, cos, sin = _mask(g, llama.dtype), *_rotary_tables(g, llama.head)
    x = g.op("Gather", "embed", "input_ids", out="embedded")
    for layer in range(llama.layers):
        x = _layer(g, llama, f"layers.{layer}", x, bias, cos, sin)
    g.op("MatMul", _norm(g, x, "norm"), "lm_head", out="logits")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        g.nodes,
        "llama",
        [value(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("input_ids", "attention_mask")],
        [value("logits", llama.dtype, ["batch", "sequence", llama.words])],
        [*weights, *g.constants.values()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="models.bench"
    )


def _mask(g: _Graph, dtype: int) -> str:
    """(B, 1, S, S), added to scores: later columns and padding are far below the others."""
    length = g.op("Slice", g.op("Shape", "input_ids", out="shape"), g.ints(1), g.ints(2), out="length")
    square = g.op("Concat", length, length, out="square", axis=0)
    below = numpy_helper.from_array(np.array([_BELOW], helper.tensor_dtype_to_np_dtype(dtype)), "below")
    causal = g.op("Trilu", g.op("ConstantOfShape", square, out="full", value=below), g.ints(1), out="causal", upper=1)
    mask = g.op("Cast", "attention_mask", out="mask", to=dtype)
    hidden = g.op("Mul", g.op("Sub", g.number(1.0), mask, out="padding"), g.number(_BELOW), out="hidden")
    return g.op("Add", g.op("Unsqueeze", hidden, g.ints(1, 2), out="hidden_columns"), causal, out="bias")


def _rotary_tables(g: _Graph, head: int) -> tuple[str, str]:
    angles = np.outer(np.arange(POSITIONS), 1e4 ** (-np.arange(0, head, 2) / head))
    angles = np.concatenate([angles, angles], 1)
    tables = (("cos", np.cos(angles)), ("sin", np.sin(angles)))
    cos, sin = (
        g.op("Slice", g.table(f"{name}_table", table), g.ints(0), "length", g.ints(0), out=name)
        for name, table in tables
    )
    return cos, sin


def _layer(g: _Graph, llama: Llama, at: str, x: str, bias: str, cos: str, sin: str) -> str:
    normal = _norm(g, x, f"{at}.norm1")
    q, k, v = (_heads(g, llama, normal, f"{at}.{name}") for name in "qkv")
    q, k = (_rotated(g, llama.head, part, cos, sin) for part in (q, k))
    turned = g.op("Transpose", k, out=f"{at}.k_turned", perm=[0, 1, 3, 2])
    scores = g.op("Mul", g.op("MatMul", q, turned, out=f"{at}.scores"), g.number(llama.head**-0.5), out=f"{at}.scaled")
    map_ = g.op("Softmax", g.op("Add", scores, bias, out=f"{at}.masked"), out=f"{at}.self_attn.map", axis=-1)
    context = g.op(
        "Transpose", g.op("MatMul", map_, v, out=f"{at}.context"), out=f"{at}.context_turned", perm=[0, 2, 1, 3]
    )
    joined = g.op("Reshape", context, g.ints(0, 0, llama.width), out=f"{at}.joined")
    x = g.op("Add", x, g.op("MatMul", joined, f"{at}.o", out=f"{at}.projected"), out=f"{at}.attended")
    normal = _norm(g, x, f"{at}.norm2")
    gate = g.op("MatMul", normal, f"{at}.gate", out=f"{at}.gated")
    silu = g.op("Mul", gate, g.op("Sigmoid", gate, out=f"{at}.sigmoid"), out=f"{at}.silu")
    inner = g.op("Mul", silu, g.op("MatMul", normal, f"{at}.up", out=f"{at}.upper"), out=f"{at}.inner")
    return g.op("Add", x, g.op("MatMul", inner, f"{at}.down", out=f"{at}.lower"), out=f"{at}.out")


def _norm(g: _Graph, x: str, weight: str) -> str:
    mean = g.op("ReduceMean", g.op("Pow", x, g.number(2.0), out=f"{weight}.square"), out=f"{weight}.mean", axes=[-1])
    root = g.op("Sqrt", g.op("Add", mean, g.number(1e-5), out=f"{weight}.shifted"), out=f"{weight}.root")
    return g.op("Mul", g.op("Div", x, root, out=f"{weight}.normal"), weight, out=f"{weight}.out")


def _heads(g: _Graph, llama: Llama, x: str, weight: str) -> str:
    flat = g.op("MatMul", x, weight, out=f"{weight}.flat")
    return g.op(
        "Transpose",
        g.op("Reshape", flat, g.ints(0, 0, llama.heads, llama.head), out=f"{weight}.split"),
        out=f"{weight}.heads",
        perm=[0, 2, 1, 3],
    )


def _rotated(g: _Graph, head: int, x: str, cos: str, sin: str) -> str:
    first = g.op("Slice", x, g.ints(0), g.ints(head // 2), g.ints(3), out=f"{x}.first")
    second = g.op("Slice", x, g.ints(head // 2), g.ints(head), g.ints(3), out=f"{x}.second")
    swapped = g.op("Concat", g.op("Neg", second, out=f"{x}.negated"), first, out=f"{x}.swapped", axis=-1)
    return g.op(
        "Add", g.op("Mul", x, cos, out=f"{x}.cos"), g.op("Mul", swapped, sin, out=f"{x}.sin"), out=f"{x}.rotated"
    )
