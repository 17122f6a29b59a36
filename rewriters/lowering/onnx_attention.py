"""`ai.onnx` Attention (opset 23 and later), through its own output of probabilities.

1. The node is copied with `qk_matmul_output_mode = 3` and its fourth output, the map after Softmax: exact, and the operator goes on
   computing its own result (measured on the CPU provider: bit-identical with and without the output).
2. Values come from `present_value` where there is a past, else from V; both get their heads repeated for grouped queries.
3. Refused by the finder: a node whose fourth output is read already in another mode.
"""

from __future__ import annotations

import onnx
from onnx import helper

from ..emit import Emitter
from ..sites import Site
from .tapped import Tapped, repeat_heads, split_heads

__all__ = ["FORM", "PROBABILITIES", "open_site"]

FORM = "Attention"

PROBABILITIES = 3
"""`qk_matmul_output_mode`: the map after Softmax."""

_PAST_VALUE = 5
_PRESENT_VALUE, _MAP = 2, 3


def open_site(e: Emitter, site: Site, node: onnx.NodeProto) -> Tapped:
    """Emit the copy with the map as an output."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = e.value("attention")
    twin.output.extend([""] * (4 - len(twin.output)))
    output = twin.output[0] = e.value("attention_output")
    twin.output[_MAP] = twin.output[_MAP] or e.value("map")
    cached = len(node.input) > _PAST_VALUE and node.input[_PAST_VALUE]
    if cached:
        twin.output[_PRESENT_VALUE] = twin.output[_PRESENT_VALUE] or e.value("present_value")
        twin.output[1] = twin.output[1] or e.value("present_key")
    kept = [attribute for attribute in twin.attribute if attribute.name != "qk_matmul_output_mode"]
    del twin.attribute[:]
    twin.attribute.extend([*kept, helper.make_attribute("qk_matmul_output_mode", PROBABILITIES)])
    e.nodes.append(twin)

    heads, key_heads = attributes.get("q_num_heads"), attributes.get("kv_num_heads")

    def values(inner: Emitter) -> str:
        value = twin.output[_PRESENT_VALUE] if cached else node.input[2]
        if key_heads and not cached:
            value = split_heads(inner, value, key_heads)
        return value if heads is not None and heads == key_heads else repeat_heads(inner, value, twin.output[_MAP])

    return Tapped(twin.output[_MAP], output, heads, site.dtype, values)
