"""Decoders with GroupQueryAttention, node by node as onnxruntime-genai's model builder writes them: half precision,
rotary positions inside the operator, a cache, fused norms.

Weights are random: what a model of this shape computes with does not matter for its speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Decoder", "save"]

_MICROSOFT = "com.microsoft"
_EPSILON = 1e-5
SMALLEST = 1024
"""Bytes of a weight that lies outside."""
_THETA = 1e4


@dataclass(frozen=True)
class Decoder:
    """Sizes of a model; `heads` / `key_heads` heads share each key."""

    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    words: int
    positions: int

    @property
    def head(self) -> int:
        return self.width // self.heads


def save(decoder: Decoder, path: Path, seed: int = 0) -> None:
    """Write the model: input_ids, attention_mask, past_key_values.* → logits, present.*; its weights into
    `<path>.data`, so that a patch need not copy them.
    """
    weights = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": SMALLEST}
    onnx.save_model(_Builder(decoder, seed).model(), path, **weights)


class _Builder:
    """Nodes and weights as they come. Letters: B samples, S new tokens, P cached ones, N heads, M key heads, H width of
    a head.
    """

    def __init__(self, decoder: Decoder, seed: int) -> None:
        self._decoder = decoder
        self._generator = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[TensorProto] = []
        self._values: list[onnx.ValueInfoProto] = []

    def model(self) -> onnx.ModelProto:
        one, value = self._decoder, helper.make_tensor_value_info
        half, whole = TensorProto.FLOAT16, TensorProto.INT64
        self._lengths()
        self._rotary()
        hidden = self._op("Gather", self._weight("embed", one.words, one.width), "input_ids", out="hidden")
        normal = self._normal(hidden)
        for layer in range(one.layers):
            hidden, normal = self._layer(layer, hidden, normal)
        self._op("MatMul", normal, self._weight("lm_head", one.width, one.words), out="logits")
        past = ["batch", one.key_heads, "past_sequence", one.head]
        present = ["batch", one.key_heads, "total_sequence", one.head]
        caches = [f"{layer}.{part}" for layer in range(one.layers) for part in ("key", "value")]
        graph = helper.make_graph(
            self._nodes,
            "decoder",
            [
                value("input_ids", whole, ["batch", "sequence"]),
                value("attention_mask", whole, ["batch", "total_sequence"]),
                *(value(f"past_key_values.{name}", half, past) for name in caches),
            ],
            [
                value("logits", half, ["batch", "sequence", one.words]),
                *(value(f"present.{name}", half, present) for name in caches),
            ],
            self._tensors,
            value_info=self._values,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="models.bench")

    def _op(self, op_type: str, *inputs: str, out: str, domain: str = "", **attributes: object) -> str:
        outputs = out.split(" ")
        outputs = ["" if name == "_" else name for name in outputs]
        name = "/" + outputs[0].replace(".", "/")
        self._nodes.append(helper.make_node(op_type, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def _tensor(self, name: str, array: np.ndarray) -> str:
        self._tensors.append(numpy_helper.from_array(array, name))
        return name

    def _weight(self, name: str, rows: int, columns: int) -> str:
        drawn = self._generator.standard_normal((rows, columns), np.float32) * np.float32(rows**-0.5)
        return self._tensor(name, drawn.astype(np.float16))

    def _norm(self, name: str) -> str:
        return self._tensor(name, np.ones(self._decoder.width, np.float16))

    def _lengths(self) -> None:
        """Each sample's length minus 1 on the device, and the longest one from a shape."""
        ones = self._tensor("one", np.array([1], np.int64))
        summed = self._op("ReduceSum", "attention_mask", ones, out="summed", keepdims=0)
        self._op("Cast", self._op("Sub", summed, ones, out="before"), out="seqlens_k", to=TensorProto.INT32)
        second = self._tensor("second", np.array(1, np.int64))
        columns = self._op("Gather", self._op("Shape", "attention_mask", out="shape"), second, out="columns", axis=0)
        self._op("Cast", columns, out="total_seq_len", to=TensorProto.INT32)

    def _rotary(self) -> None:
        one = self._decoder
        angles = np.outer(np.arange(one.positions), _THETA ** (-np.arange(0, one.head, 2) / one.head))
        for name, table in (("cos_cache", np.cos(angles)), ("sin_cache", np.sin(angles))):
            self._tensor(name, table.astype(np.float16))

    def _normal(self, hidden: str) -> str:
        weight, settings = self._norm("first.norm"), {"axis": -1, "epsilon": _EPSILON, "stash_type": 1}
        return self._op("SimplifiedLayerNormalization", hidden, weight, out="first.normal", **settings)

    def _layer(self, layer: int, hidden: str, normal: str) -> tuple[str, str]:
        """The hidden states behind a layer, and what the next one reads."""
        one, at = self._decoder, f"layers.{layer}"
        keys = one.key_heads * one.head
        q, k, v = (
            self._op("MatMul", normal, self._weight(f"{at}.{name}", one.width, width), out=f"{at}.{name}_proj")
            for name, width in (("q", one.width), ("k", keys), ("v", keys))
        )
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        lengths = ("seqlens_k", "total_seq_len", "cos_cache", "sin_cache")
        attended = self._op(
            "GroupQueryAttention",
            *(q, k, v, *past, *lengths),
            out=f"{at}.attn present.{layer}.key present.{layer}.value",
            domain=_MICROSOFT,
            num_heads=one.heads,
            kv_num_heads=one.key_heads,
            scale=one.head**-0.5,
            do_rotary=1,
        )
        back = self._op("MatMul", attended, self._weight(f"{at}.o", one.width, one.width), out=f"{at}.o_proj")
        normal, hidden = self._skip(f"{at}.middle", hidden, back)
        gate, up = (
            self._op("MatMul", normal, self._weight(f"{at}.{name}", one.width, one.inner), out=f"{at}.{name}_proj")
            for name in ("gate", "up")
        )
        silu = self._op("Mul", gate, self._op("Sigmoid", gate, out=f"{at}.sigmoid"), out=f"{at}.silu")
        inner = self._op("Mul", silu, up, out=f"{at}.inner")
        down = self._op("MatMul", inner, self._weight(f"{at}.down", one.inner, one.width), out=f"{at}.down_proj")
        normal, hidden = self._skip(f"{at}.last", hidden, down)
        return hidden, normal

    def _skip(self, at: str, hidden: str, added: str) -> tuple[str, str]:
        """The norm of a sum, and the sum. onnx cannot infer their shapes, so they are written down."""
        shape = ["batch", "sequence", self._decoder.width]
        for name in ("normal", "sum"):
            self._values.append(helper.make_tensor_value_info(f"{at}.{name}", TensorProto.FLOAT16, shape))
        self._op(
            "SkipSimplifiedLayerNormalization",
            *(hidden, added, self._norm(f"{at}.norm")),
            out=f"{at}.normal _ _ {at}.sum",
            domain=_MICROSOFT,
            epsilon=_EPSILON,
        )
        return f"{at}.normal", f"{at}.sum"
