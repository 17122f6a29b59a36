"""A map made again without its flagged columns: their scores get a number added that no Softmax sees.

    scores + lowest · f  →  Softmax  →  product  →  × (1 - T)  →  + Σ q v,        f: 1 at flagged columns, else 0

This is eq. 11, for the Softmax of the other columns is what eq. 11 divides for. It takes a third of the operators of
`redistribution`, and one more pass over the map, so it is for small maps.

1. A site gets this form if its benign pair is for one length (so nothing is padding) and has values, its map is a
   float32 Softmax in front of a plain product, every row sees every column, and the map is small.
2. Rules 1 and 3 of `redistribution` hold, and its rules 2 and 5 cannot occur. There is no saturated row (rule 4):
   however much of a row the flagged columns had, the others share the rest as their scores say.
3. A sample without a flagged column comes out bit for bit: -0 is added to its scores, and 0 taken from its product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..model.bodies import Wiring
from ..plan import SitePlan
from ..sites import Site
from .context import fixed_size, rows_alike

__all__ = ["MaskedScores", "columns_axis", "masked_scores", "redistribute_masked", "softmax_chain"]

_LAYOUT = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_AXIS_IS_LAST_FROM = 13
"""First opset in which Softmax is over the last axis by default."""
_ROUNDING = 1e-5
"""Of a sum of shares that is 1."""
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class MaskedScores:
    """The Softmax and the casts behind it, in order; alone: nothing but the product reads the map."""

    chain: tuple[onnx.NodeProto, ...]
    alone: bool


def softmax_chain(site: Site, wiring: Wiring) -> tuple[onnx.NodeProto, ...]:
    """The Softmax and what moves its result to the product; () where other operators are between them, or another type.

    Exporters cast a float32 map to float32.
    """
    if site.softmax_dtype != site.dtype:
        return ()
    chain: list[onnx.NodeProto] = []
    node = wiring.maker.get(site.probabilities)
    while node is not None and node.op_type in _LAYOUT:
        chain.insert(0, node)
        node = wiring.maker.get(node.input[0])
    if node is None or node.op_type != "Softmax" or node.domain not in ("", "ai.onnx"):
        return ()
    scores = wiring.maker.get(node.input[0])
    return () if scores is not None and scores.op_type == "DequantizeLinear" else (node, *chain)


def columns_axis(e: Emitter, site: Site, softmax: onnx.NodeProto) -> int | None:
    """The negative axis of the columns in the scores; None where it is not known."""
    default = -1 if e.opset >= _AXIS_IS_LAST_FROM else 1
    axis = next((attribute.i for attribute in softmax.attribute if attribute.name == "axis"), default)
    if axis < 0:
        return int(axis)
    return None if site.softmax_rank is None else int(axis) - site.softmax_rank


def masked_scores(e: Emitter, site: Site, plan: SitePlan, wiring: Wiring) -> MaskedScores | None:
    """What makes the map of a site again, where rule 1 holds."""
    pair, layout = plan.benign, site.layout
    size = fixed_size(site, plan)
    if size is None or not size.small or not rows_alike(site, plan):
        return None
    if pair.values is None and not pair.own_values:
        return None
    plain = (layout.rank, layout.probabilities, layout.values, layout.output) == (4, None, None, None)
    if site.form != "softmax" or site.dtype != TensorProto.FLOAT or not plain or layout.single_head:
        return None
    chain = softmax_chain(site, wiring)
    if not chain or site.softmax_rank != layout.rank or columns_axis(e, site, chain[0]) != -1:
        return None
    if not {node.op_type for node in chain[1:]} <= {"Cast", "Identity"}:
        return None
    return MaskedScores(chain, all(wiring.has_one_reader(node.output[0]) for node in chain))


def redistribute_masked(
    e: Emitter, site: Site, plan: SitePlan, masked: MaskedScores, product: onnx.NodeProto, columns: str
) -> str:
    """The patched output for flagged columns (B, K) bool."""
    softmax, *casts = masked.chain
    flagged = e.once(f"flagged:{columns}", lambda: _flagged(e, columns, plan.benign.attention.shape[2]))
    hidden = e.once(f"hidden:{columns}", lambda: e.op("Mul", flagged, e.constant(_LOWEST), role="hidden"))
    made = e.copy(softmax, [e.op("Add", softmax.input[0], hidden, role="scores")], "map_unflagged")
    for cast in casts:
        made = e.copy(cast, [made], "map_unflagged")
    inputs = list(product.input)
    inputs[site.operand] = made
    kept = e.copy(product, inputs, "product_unflagged")
    pair = plan.benign
    shares = e.op("Mul", flagged, e.constant(-pair.attention), role="benign_shares")  # -q
    total = e.reduce("Sum", shares, 3)  # -T
    if pair.largest_share > 1.0 + _ROUNDING:  # else T cannot exceed 1
        shares = e.op("Div", shares, e.at_least(e.op("Neg", total), 1.0))
        total = e.reduce("Sum", shares, 3)
    scaled = e.op("Mul", kept, e.op("Add", total, e.constant(1.0), role="room"), role="scaled")
    values = site.values
    if pair.values is not None and not pair.own_values:
        values = e.constant(
            np.broadcast_to(pair.values, (len(pair.values), pair.attention.shape[2], pair.values.shape[2]))
        )
    return e.op("Sub", scaled, e.op("MatMul", shares, values, role="gap"), role="patched")


def _flagged(e: Emitter, columns: str, size: int) -> str:
    """(B, 1, 1, K), 1 at flagged columns; nothing is flagged in a sample in which everything is."""
    flagged = e.number(e.unsqueeze(columns, 1, 2))
    if e.conditional:
        return e.op("Sub", flagged, e.reduce("Min", flagged, 3), role="flagged")
    others = e.op("Sub", e.constant(float(size)), e.reduce("Sum", flagged, 3))
    return e.op("Mul", flagged, e.op("Clip", others, e.constant(0.0), e.constant(1.0)), role="flagged")
