"""`ai.onnx` Attention (opset 23 and later): its own output gives the probabilities.

1. The node is copied with `qk_matmul_output_mode = 3` and its fourth output, the map after Softmax. The operator still
   computes its own result, and the new output does not change it (bit-identical on the CPU provider, and where a
   runtime inlines the operator's function).
2. A node whose fourth output is read in another mode is unchanged, and a second copy next to it gives the map.
3. Values come from `present_value` where there is a past, else from V; for grouped queries their heads are repeated.
4. The shape of the queries is hidden from shape inference: onnxruntime 1.32 takes a symbolic number of columns of the
   fourth output for 0. Then it reuses the buffer of a decoder's own map for the cross-attention after it, which fails
   where their lengths differ.
5. Rows for which a mask leaves no column are all 0 by the specification and in onnxruntime 1.32, but NaN in 1.23 and
   1.24: see `Tapped.may_hide_rows`.

Why not inline the operator's function (`onnx.inliner`)? Processor time of a silent patch divided by the original, one
thread, onnxruntime 1.32, the opset-23 export of a BERT with 6 layers, width 384, 12 heads, tokens × samples:

    ====================  =========  =========  ==================
    form                  128 × 1    128 × 8    largest difference
    ====================  =========  =========  ==================
    map output (here)     1.049      1.040      0
    inlined               1.074      1.056      2e-6
    inlined, unpatched    1.052      1.053      2e-6
    ====================  =========  =========  ==================

The inliner also fails at nodes with an omitted input before a given one, such as `nonpad_kv_seqlen` without a mask.
Its only advantage: onnxruntime's CUDA kernel gives only scores before Softmax (mode 0, microsoft/onnxruntime#28351), so
for that provider inline first and patch the result.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from ..emit import Emitter
from ..sites import Site
from .tapped import Tapped, repeat_heads, split_heads

__all__ = ["FORM", "PROBABILITIES", "lower_site"]

FORM = "Attention"

PROBABILITIES = 3
"""`qk_matmul_output_mode`: the map after Softmax."""

_QUERY, _VALUE, _MASK, _PAST_VALUE, _NONPAD = 0, 2, 3, 5, 6
_PRESENT_KEY, _PRESENT_VALUE, _MAP = 1, 2, 3


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> Tapped:
    """Emit the copy with the map as an output."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    attention = _copy(e, node)
    output = attention.output[0] = e.value("attention_output")
    if _given(node.output, _MAP) and attributes.get("qk_matmul_output_mode", 0) != PROBABILITIES:
        e.nodes.append(attention)
        attention = _copy(e, node)
        del attention.output[:]
        attention.output.append(e.value("attention_output"))
    attention.input[_QUERY] = _hide_shape(e, attention.input[_QUERY])
    e.nodes.append(attention)
    probabilities = _output_map(e, attention)

    # In rank 3 heads are part of the features. Head count attributes do not prove it: rank-4 nodes may have them too.
    heads_in_features = site.layout.output is not None
    heads, key_heads = attributes.get("q_num_heads"), attributes.get("kv_num_heads")
    cached = _given(node.input, _PAST_VALUE)

    def values(inner: Emitter) -> str:
        value = attention.output[_PRESENT_VALUE] if cached else node.input[_VALUE]
        if heads_in_features and key_heads and not cached:
            value = split_heads(inner, value, key_heads)
        return value if heads_in_features and heads == key_heads else repeat_heads(inner, value, probabilities)

    windows = any(attributes.get(name, -1) >= 0 for name in ("left_window_size", "right_window_size"))
    hides = windows or _given(node.input, _MASK) or _given(node.input, _NONPAD)
    return Tapped(probabilities, output, heads if heads_in_features else None, site.dtype, values, hides)


def _hide_shape(e: Emitter, value: str) -> str:
    """The value after a Reshape to its own shape: nothing is copied, and shape inference cannot find the result."""
    return e.op("Reshape", value, e.op("Add", e.op("Shape", value), e.constant([0], np.int64)), role="query")


def _output_map(e: Emitter, node: onnx.NodeProto) -> str:
    """Make the node output its map; returns the value's name."""
    node.output.extend([""] * (_MAP + 1 - len(node.output)))
    node.output[_MAP] = node.output[_MAP] or e.value("map")
    # onnxruntime computes with the present keys and values only where they are outputs
    if _given(node.input, _PAST_VALUE):
        node.output[_PRESENT_KEY] = node.output[_PRESENT_KEY] or e.value("present_key")
        node.output[_PRESENT_VALUE] = node.output[_PRESENT_VALUE] or e.value("present_value")
    kept = [attribute for attribute in node.attribute if attribute.name != "qk_matmul_output_mode"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("qk_matmul_output_mode", PROBABILITIES)])
    return str(node.output[_MAP])


def _copy(e: Emitter, node: onnx.NodeProto) -> onnx.NodeProto:
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = e.value("attention")
    return twin


def _given(names: object, index: int) -> bool:
    """Whether an optional operand is given."""
    listed = list(names)  # type: ignore[call-overload]
    return index < len(listed) and bool(listed[index])
