"""A site between Q/DQ pairs: the map goes Softmax → QuantizeLinear → DequantizeLinear → product.

Runtimes turn DequantizeLinear, operator, QuantizeLinear into one operator on integers, as long as nothing else reads the values between.
So that all of them stay as they are, and with them every bit of what is not flagged:

1. The map is read from a copy of the Softmax and what follows, where a runtime could turn the model's own into integers (`read_beside`).
2. The gate lies between QuantizeLinear and DequantizeLinear: it gives the quantised map as it is, or a redistributed one, quantised alike.
3. The benign part is added behind the product, and behind the pair that requantises it.

Two pairs in a row (around casts that do nothing, as a quantiser meets them without its pre-processing) are one exception: onnxruntime
makes one pair of them, with another scale, if nothing comes between. Bits are the same there without optimisation only.
"""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import TensorProto, helper

from ..bodies import Wiring
from ..emit import Emitter
from ..plan import SitePlan
from ..sites import Site
from .canonical import Canonical
from .context import MapContext
from .gating import Branch, Replacement, gate
from .sides import map_side

__all__ = ["patch_between_pairs", "read_beside"]

_FIRST_NEGATIVE_AXIS_OPSET = 11
_LONGEST_CHAIN = 8


def read_beside(e: Emitter, site: Site, wiring: Wiring) -> Site:
    """The site, with its map read from a copy of the model's own chain, from a Softmax behind a DequantizeLinear on.

    The copied Softmax has its axis written the other way round (-1 for the last one's number, or that for -1): equal nodes would be made
    one again.
    """
    softmax = wiring.maker.get(site.probabilities)
    chain: list[onnx.NodeProto] = []
    while softmax is not None and softmax.op_type != "Softmax" and len(chain) < _LONGEST_CHAIN:
        chain.insert(0, softmax)
        softmax = wiring.maker.get(softmax.input[_mapped_input(softmax)]) if softmax.input else None
    if softmax is None or softmax.op_type != "Softmax" or e.opset < _FIRST_NEGATIVE_AXIS_OPSET:
        return site
    source = wiring.maker.get(softmax.input[0])
    if source is None or source.op_type != "DequantizeLinear" or site.softmax_rank is None:
        return site
    beside = {softmax.output[0]: e.copy(softmax, softmax.input, "map_beside")}
    axis = next((attribute.i for attribute in softmax.attribute if attribute.name == "axis"), 1 if e.opset < 13 else -1)
    del e.nodes[-1].attribute[:]
    e.nodes[-1].attribute.append(helper.make_attribute("axis", axis - site.softmax_rank if axis >= 0 else axis + site.softmax_rank))
    for node in chain:
        beside[node.output[0]] = e.copy(node, [beside.get(name, name) for name in node.input], "map_beside")
    return replace(site, probabilities=beside[site.probabilities])


def _mapped_input(node: onnx.NodeProto) -> int:
    """Which input the map comes in by: the last one of a Where (the NaN guard), else the first."""
    return 2 if node.op_type == "Where" else 0


def patch_between_pairs(
    e: Emitter, site: Site, plan: SitePlan, context: MapContext, columns: str, any_flagged: str, gated: bool, wiring: Wiring
) -> tuple[Replacement, ...]:
    """Emit the redistribution for flagged columns (B, K), in front of the product and behind it.

    All of it stands at the product, where the values are known too; the map's own DequantizeLinear goes if nothing else reads it.
    """
    quantizer = wiring.maker[site.quantizer or ""]
    dequantizer = wiring.maker[wiring.maker[site.product].input[site.operand]]
    quantised = quantizer.output[0]

    def redistributed(inner: Emitter) -> list[str]:
        unchanged = inner.copy(dequantizer, dequantizer.input, "map_dequantised")
        patched, benign = map_side(inner, site, plan, context, columns, unchanged)
        return [inner.copy(quantizer, [patched, *quantizer.input[1:]], "map_quantised"), benign]

    if gated:
        then, otherwise = e.branch(), e.branch()
        dtypes = [site.quantizer_dtype, TensorProto.FLOAT]
        kept = [otherwise.op("Identity", quantised), otherwise.op("Identity", otherwise.constant([[[[0.0]]]]))]
        new_map, benign = e.value("map"), e.value("benign")
        gate(e, any_flagged, Branch(then, redistributed(then), dtypes), Branch(otherwise, kept, dtypes), [new_map, benign])
    else:
        new_map, benign = redistributed(e)
    product = onnx.NodeProto()
    product.CopyFrom(wiring.maker[site.product])
    product.input[site.operand] = e.copy(dequantizer, [new_map, *dequantizer.input[1:]], "map_patched")
    taken = [] if not wiring.has_one_reader(dequantizer.output[0]) else [Replacement(dequantizer.output[0], ())]
    anchor = _after_requantisation(wiring, site.product)
    if anchor == site.product:
        return (*taken, Replacement(anchor, (*e.nodes, *_with_benign(e, site, product, benign, any_flagged))))
    behind = _with_benign(e, site, wiring.maker[anchor], benign, any_flagged)
    return (*taken, Replacement(site.product, (*e.nodes, product)), Replacement(anchor, tuple(behind)))


def _with_benign(e: Emitter, site: Site, node: onnx.NodeProto, benign: str, any_flagged: str) -> list[onnx.NodeProto]:
    """A node that makes a product, and behind it what adds the benign part where something is flagged."""
    behind = e.branch()
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    raw = twin.output[0] = behind.value("product_requantised")
    behind.nodes.append(twin)
    canonical = Canonical(site)
    added = behind.op("Add", canonical.output(behind, raw), benign)
    behind.op("Where", any_flagged, canonical.restore_output(behind, added, raw), raw)
    behind.nodes[-1].output[0] = node.output[0]
    return behind.nodes


def _after_requantisation(wiring: Wiring, product: str) -> str:
    """Output of DequantizeLinear when the product goes through one Q/DQ pair and nowhere else, else the product itself."""
    value = product
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        readers = wiring.readers[value]
        if len(readers) != 1 or readers[0].op_type != op_type:
            return product
        value = readers[0].output[0]
    return value
