"""A decoder's layer in each form that healing knows, with a twin that takes its keys and values from other tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rewriters.finding.finder import find_sites
from rewriters.plan import PatchPlan, SitePlan, Static

__all__ = ["BATCH", "FORMS", "HEADS", "WIDTH", "Layer", "feeds_of", "multi_head", "multi_head_packed", "plan_for"]

BATCH, PAST, NEW, HEADS, HEAD_DIM, VOCABULARY = 2, 3, 5, 2, 16, 23
WIDTH = HEADS * HEAD_DIM
NAMES = {"q": WIDTH, "k": WIDTH, "v": WIDTH, "qkv": 3 * WIDTH, "o": VOCABULARY}

Nodes = list[onnx.NodeProto]


class Layer:
    """ids → embedding → attention → logits; `other_keys`: keys and values are made from the input `key_ids`."""

    def __init__(self, other_keys: bool) -> None:
        self.other_keys = other_keys
        self.nodes: Nodes = []
        rng = np.random.default_rng(0)
        self.tensors = {"table": rng.normal(size=(VOCABULARY, WIDTH))}
        self.tensors |= {name: rng.normal(size=(WIDTH, size)) / 4 for name, size in NAMES.items() if name != "qkv"}
        self.tensors["qkv"] = np.concatenate([self.tensors[name] for name in "qkv"], 1)
        self.numbers: dict[str, list[int]] = {}
        self.domain = "com.microsoft"

    def op(self, kind: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: object) -> str:
        names = outputs or (f"{kind}{len(self.nodes)}",)
        domain = self.domain if kind in ("GroupQueryAttention", "MultiHeadAttention", "Attention_") else ""
        kind = kind.removesuffix("_")
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0] + "_node", domain=domain, **attributes))
        return names[0]

    def integers(self, *numbers: int) -> str:
        name = "n" + "_".join(map(str, numbers)).replace("-", "m")
        self.numbers[name] = list(numbers)
        return name

    def hidden(self, ids: str = "input_ids") -> str:
        return self.op("Gather", "table", ids)

    def projected(self, name: str) -> str:
        source = self.hidden("key_ids" if self.other_keys and name != "q" else "input_ids")
        return self.op("MatMul", source, name)

    def packed(self) -> str:
        """(B, S, 3 · width); in the twin its parts come from both inputs."""
        if not self.other_keys:
            return self.op("MatMul", self.hidden(), "qkv")
        return self.op("Concat", *(self.projected(name) for name in "qkv"), axis=-1)

    def heads(self, x: str) -> str:
        split = self.op("Reshape", x, self.integers(0, 0, HEADS, HEAD_DIM))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def model(self, context: str, opset: int) -> onnx.ModelProto:
        self.op("MatMul", context, "o", outputs=("logits",))
        inputs = [("input_ids", TensorProto.INT64, ["B", "S"])]
        inputs += [("key_ids", TensorProto.INT64, ["B", "S"])] if self.other_keys else []
        inputs += [(f"past_{name}", TensorProto.FLOAT, ["B", HEADS, "past", HEAD_DIM]) for name in "kv"]
        inputs += [("lengths", TensorProto.INT32, ["B"]), ("total", TensorProto.INT32, [])]
        inputs += [("positions", TensorProto.INT64, ["B", "S"])]
        read = {name for node in self.nodes for name in node.input}
        made = {name for node in self.nodes for name in node.output}
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "S", VOCABULARY])]
        outputs += [
            helper.make_tensor_value_info(f"present_{name}", TensorProto.FLOAT, ["B", HEADS, "all", HEAD_DIM])
            for name in "kv"
            if f"present_{name}" in made
        ]
        tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in self.tensors.items()]
        tensors += [numpy_helper.from_array(np.array(array, np.int64), name) for name, array in self.numbers.items()]
        graph = helper.make_graph(
            self.nodes,
            "layer",
            [helper.make_tensor_value_info(*one) for one in inputs if one[0] in read],
            outputs,
            [tensor for tensor in tensors if tensor.name in read],
        )
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def rotation(self) -> None:
        angles = np.arange(32)[:, None] / 10.0 ** np.linspace(0, 1, HEAD_DIM // 2)
        self.tensors |= {"cos": np.cos(angles), "sin": np.sin(angles)}


def multi_head(other_keys: bool) -> onnx.ModelProto:
    layer = Layer(other_keys)
    parts = [layer.projected(name) for name in "qkv"]
    outputs = ("context", "present_k", "present_v")
    context = layer.op(
        "MultiHeadAttention", *parts, "", "", "", "past_k", "past_v", outputs=outputs, num_heads=HEADS, unidirectional=1
    )
    return layer.model(context, 20)


def multi_head_packed(other_keys: bool) -> onnx.ModelProto:
    layer = Layer(other_keys)
    split = layer.op("Reshape", layer.packed(), layer.integers(0, 0, 3, HEADS, HEAD_DIM))
    ready = layer.op("Transpose", split, perm=[0, 1, 3, 2, 4])
    return layer.model(layer.op("MultiHeadAttention", ready, num_heads=HEADS, unidirectional=1), 20)


def multi_head_rotated(other_keys: bool) -> onnx.ModelProto:
    layer = Layer(other_keys)
    layer.rotation()
    q, k, v = (layer.projected(name) for name in "qkv")
    q, k = (layer.op("RotaryEmbedding", x, "cos", "sin", "positions", num_heads=HEADS, interleaved=0) for x in (q, k))
    outputs = ("context", "present_k", "present_v")
    context = layer.op(
        "MultiHeadAttention",
        q,
        k,
        v,
        "",
        "",
        "",
        "past_k",
        "past_v",
        outputs=outputs,
        num_heads=HEADS,
        unidirectional=1,
    )
    return layer.model(context, 23)


def onnx_attention(other_keys: bool) -> onnx.ModelProto:
    layer = Layer(other_keys)
    parts = [layer.projected(name) for name in "qkv"]
    outputs = ("context", "present_k", "present_v")
    numbers = {"q_num_heads": HEADS, "kv_num_heads": HEADS, "is_causal": 1}
    context = layer.op("Attention", *parts, "", "past_k", "past_v", outputs=outputs, **numbers)
    return layer.model(context, 23)


def group_query(other_keys: bool, packed: bool = False) -> onnx.ModelProto:
    layer = Layer(other_keys)
    layer.rotation()
    parts = [layer.packed(), "", ""] if packed else [layer.projected(name) for name in "qkv"]
    outputs = ("context", "present_k", "present_v")
    context = layer.op(
        *("GroupQueryAttention", *parts, "past_k", "past_v", "lengths", "total", "cos", "sin"),
        outputs=outputs,
        num_heads=HEADS,
        kv_num_heads=HEADS,
        do_rotary=1,
    )
    return layer.model(context, 20)


def group_query_packed(other_keys: bool) -> onnx.ModelProto:
    return group_query(other_keys, packed=True)


def primitives(other_keys: bool, place: str = "") -> onnx.ModelProto:
    """Softmax over a Concat cache; `place` "added": keys have something added that differs from token to token."""
    layer = Layer(other_keys)
    layer.rotation()
    layer.tensors["angles"] = np.random.default_rng(1).normal(size=(32, WIDTH))
    q, k, v = (layer.projected(name) for name in "qkv")
    if place == "added":
        k = layer.op("Add", k, layer.op("Gather", "angles", "positions"))
    q, k, v = (layer.heads(x) for x in (q, k, v))
    k, v = (
        layer.op("Concat", f"past_{name}", x, outputs=(f"present_{name}",), axis=2) for name, x in (("k", k), ("v", v))
    )
    scores = layer.op("MatMul", q, layer.op("Transpose", k, perm=[0, 1, 3, 2]))
    context = layer.op("MatMul", layer.op("Softmax", scores, axis=-1), v)
    flat = layer.op("Reshape", layer.op("Transpose", context, perm=[0, 2, 1, 3]), layer.integers(0, 0, WIDTH))
    return layer.model(flat, 17)


def primitives_with_added_positions(other_keys: bool) -> onnx.ModelProto:
    return primitives(other_keys, "added")


FORMS: tuple[Callable[[bool], onnx.ModelProto], ...] = (
    multi_head,
    multi_head_rotated,
    onnx_attention,
    group_query,
    group_query_packed,
    primitives,
    primitives_with_added_positions,
)


def feeds_of(model: onnx.ModelProto, source: np.ndarray | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    past = PAST if model.graph.input[-1].name != "total" or BATCH == 1 else 0  # a prompt of several samples
    ids = rng.integers(0, VOCABULARY, (BATCH, NEW))
    feeds: dict[str, np.ndarray] = {
        "input_ids": ids,
        "past_k": rng.normal(size=(BATCH, HEADS, past, HEAD_DIM)).astype(np.float32),
        "past_v": rng.normal(size=(BATCH, HEADS, past, HEAD_DIM)).astype(np.float32),
        "lengths": np.full(BATCH, past + NEW - 1, np.int32),
        "total": np.array(past + NEW, np.int32),
        "positions": np.tile(np.arange(past, past + NEW), (BATCH, 1)),
    }
    if source is not None:
        feeds["key_ids"] = np.take_along_axis(ids, source, 1)
    wanted = {value.name for value in model.graph.input}
    return {name: array for name, array in feeds.items() if name in wanted}


def plan_for(model: onnx.ModelProto, columns: tuple[int, ...], **options: object) -> tuple[PatchPlan, tuple]:  # type: ignore[type-arg]
    sites = find_sites(model)[0]
    group = tuple(site.id for site in sites)
    plans = {site.id: SitePlan(Static(columns)) for site in sites}
    return PatchPlan(plans, passes="two", groups=(group,), mend="heal", **options), sites  # type: ignore[arg-type]
