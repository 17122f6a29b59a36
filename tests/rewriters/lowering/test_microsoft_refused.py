"""Fused attention of `com.microsoft` that cannot be patched: every refusal says why, and what to do instead."""

from __future__ import annotations

import copy

import onnx
import pytest
from onnx import TensorProto

from rewriters.finding.finder import find_sites

from ..microsoft import case


def changed(id: str, **attributes: object) -> onnx.ModelProto:
    model = copy.deepcopy(case(id).model)
    model.graph.node[0].attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    return model


def with_input(id: str, index: int, elem_type: int, shape: list[int | str | None] | None) -> onnx.ModelProto:
    """The case with one more graph input at a place of the node."""
    model = copy.deepcopy(case(id).model)
    inputs = model.graph.node[0].input
    inputs.extend([""] * (index + 1 - len(inputs)))
    inputs[index] = "extra"
    model.graph.input.append(onnx.helper.make_tensor_value_info("extra", elem_type, shape))
    return model


def without_presents() -> onnx.ModelProto:
    model = copy.deepcopy(case("mha-past").model)
    del model.graph.node[0].output[1:], model.graph.output[1:]
    return model


def computed_weights() -> onnx.ModelProto:
    model = copy.deepcopy(case("attention-plain").model)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, [40, 192]))
    model.graph.initializer.remove(next(tensor for tensor in model.graph.initializer if tensor.name == "w"))
    return model


REFUSED = {
    "attention-rotary": (changed("attention-plain", do_rotary=1), "RotaryEmbedding"),
    "attention-buffer": (changed("attention-past", past_present_share_buffer=1), "shared buffer"),
    "attention-mask-rank-4": (with_input("attention-plain", 3, TensorProto.INT32, ["b", 1, 9, 9]), "rank 4"),
    "attention-mask-of-unknown-rank": (with_input("attention-plain", 3, TensorProto.INT32, None), "rank unknown"),
    "attention-computed-weights": (computed_weights(), "not constant"),
    "qattention-rotary": (changed("qattention-tensor-plain", do_rotary=1), "RotaryEmbedding"),
    "mha-buffer": (with_input("mha-past", 8, TensorProto.INT32, [1]), "shared buffer"),
    "mha-mask-of-unknown-rank": (with_input("mha-plain", 4, TensorProto.INT32, None), "rank unknown"),
    "mha-cache-without-presents": (without_presents(), "present outputs"),
    "gqa-quantized-cache": (changed("gqa-decode", k_quant_type="PER_TENSOR"), "quantized"),
    "gqa-window-cache": (changed("gqa-decode", sliding_window_cache=1), "window"),
    "gqa-norms": (with_input("gqa-prompt", 14, TensorProto.FLOAT, [16]), "normalizes"),
    "gqa-chunks": (with_input("gqa-decode", 16, TensorProto.INT32, ["b"]), "query_seqlens"),
}


@pytest.mark.parametrize(("model", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_why_and_what_to_do(model: onnx.ModelProto, words: str) -> None:
    sites, (rejection,) = find_sites(model)
    assert not sites
    assert rejection.code == "fused" and words in rejection.reason and ";" in rejection.reason


OTHERS = [
    "DecoderAttention",
    "DecoderMaskedMultiHeadAttention",
    "DecoderMaskedSelfAttention",
    "DynamicSparseAttention",
    "LongformerAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "PagedAttention",
    "QOrderedAttention",
    "QOrderedLongformerAttention",
    "SparseAttention",
    "SparsePagedAttention",
]


@pytest.mark.parametrize("operator", OTHERS)
def test_operators_that_cannot_be_lowered_say_why_and_what_to_do(operator: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[b, s, 64] x) => (float[b, s, 64] out)'
        f" {{ out = com.microsoft.{operator} <num_heads = 4> (x, x, x) }}"
    )
    sites, (rejection,) = find_sites(model)
    assert not sites
    assert rejection.code == "fused" and rejection.reason.count(operator) == 1 and ";" in rejection.reason
