"""`com.microsoft` QAttention: Attention over an integer projection.

1. Its projection becomes MatMulIntegerToFloat; everything behind it is float32 and the same as in Attention. On the CPU
   provider the result is bit-identical to the operator's: the same integer kernel and the same rescaling.
2. Scales and zero points for each tensor or each column; masks of rank 1 and 2; `past` and `present`; `unidirectional`;
   `mask_filter_value`.
3. Refused by the finder: `do_rotary`, `past_present_share_buffer`, a mask of unknown rank, weights that are not
   constant, float16 scales.
"""

from __future__ import annotations

import onnx
from onnx import helper

from ..emit import Emitter
from ..sites import Site
from .microsoft_attention import Projected, lower_projected
from .microsoft_parts import input_of
from .operands import Operands

__all__ = ["FORM", "lower_site"]

FORM = "QAttention"

_INPUT, _WEIGHTS, _BIAS, _INPUT_SCALE, _WEIGHT_SCALE, _MASK, _INPUT_ZERO, _WEIGHT_ZERO, _PAST = range(9)


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> Operands:
    """Emit the nodes that replace the operator."""
    order = (_INPUT, _WEIGHTS, _INPUT_SCALE, _WEIGHT_SCALE, _INPUT_ZERO, _WEIGHT_ZERO, _BIAS)
    inputs = [input_of(node, index) for index in order]
    product = e.value("projection")
    e.nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [product], name=product, domain="com.microsoft"))
    mask = input_of(node, _MASK)
    projected = Projected(
        source=node.input[_INPUT],
        product=product,
        flat=False,
        sizes=None,
        mask=(mask, site.ranks[_MASK] or 0) if mask else None,
        past=input_of(node, _PAST),
        attention_bias="",
        present=node.output[1] if len(node.output) > 1 else "",
    )
    return lower_projected(e, site, node, projected)
