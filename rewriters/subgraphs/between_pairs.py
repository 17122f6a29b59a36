"""A site between Q/DQ pairs: the map goes Softmax → QuantizeLinear → DequantizeLinear → product.

Runtimes fuse DequantizeLinear, operator, QuantizeLinear into one operator on integers if nothing else reads the values
in between. So the model's own operators and pairs stay unchanged, and unflagged samples stay bit-identical:

1. The map is read from a copy of the Softmax and the operators after it, if a runtime could compute the model's own
   Softmax on integers.
2. The redistribution is computed in float32 next to the product. The choice between the two comes after the pair that
   requantizes the product. The chosen value goes through a second, equal pair, so that its reader still reads a
   dequantized value; numbers from one pair do not change in an equal pair.
3. A pair with one reader keeps one reader. If the patch reads such a value, the value goes through a copy that no
   optimizer removes, and then through a second pair for the model. onnxruntime changes a pair from int8 to uint8 only
   if QuantizeLinear has one reader, and merges two pairs in a row only if nothing is between them. A pair with several
   readers may have one more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx
from onnx import TensorProto, helper

from ..emit import Emitter
from ..lowering.canonical import Canonical
from ..lowering.kept_product import KeptOperands
from ..model.bodies import Wiring
from ..sites import Site
from .gating import Branch, Replacement, gate

__all__ = ["patch_between_pairs", "read_map", "read_values"]

_FIRST_NEGATIVE_AXIS_OPSET = 11
_LONGEST_CHAIN = 8
_MOVERS = frozenset({"Cast", "Dropout", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_REMOVABLE = frozenset({"Add", "Div", "Mul", "Sub"})
"""onnxruntime removes these where the other operand is a constant that changes nothing."""


def read_values(e: Emitter, site: Site, wiring: Wiring, taken: list[Replacement]) -> Site:
    """The site with values that the patch may read; the needed replacements are added to `taken`."""
    return replace(site, values=_read(e, wiring, site.values, taken))


def patch_between_pairs(
    e: Emitter, site: Site, any_flagged: str, wiring: Wiring, patched: Callable[[Emitter, KeptOperands], str]
) -> tuple[Replacement, ...]:
    """Emit the choice between the product and the output of `patched`: at the product, or after the pair that follows.

    Args:
        site: with map and values as `read_map` and `read_values` return them.
    """
    product, pair = wiring.maker[site.product], _pair_after(wiring, site.product)
    after = e.branch()
    if pair is None:
        raw = kept = after.copy(product, product.input, "product")
        end = site.product
    else:
        quantizer, dequantizer = pair
        raw = after.copy(dequantizer, dequantizer.input, "dequantized")
        kept = after.op("Concat", raw, axis=0, role="apart")
        end = after.value("chosen")
        # No reader in this body: an output of the graph, or read only in subgraphs.
        if wiring.has_one_reader(dequantizer.output[0]) or not wiring.readers[dequantizer.output[0]]:
            raw = kept
    operands = KeptOperands(site, kept, Canonical(site))
    if e.conditional:
        then, otherwise = after.branch(), after.branch()
        kinds = [operands.dtype]
        branches = (
            Branch(then, [patched(then, operands)], kinds),
            Branch(otherwise, [otherwise.op("Identity", raw)], kinds),
        )
        gate(after, any_flagged, *branches, [end])
    else:
        after.op("Where", any_flagged, patched(after, operands), raw)
        after.nodes[-1].output[0] = end
    if pair is None:
        return (Replacement(site.product, (*e.nodes, *after.nodes)),)
    _emit_pair(after, end, *pair)
    here = onnx.NodeProto()
    here.CopyFrom(product)
    return Replacement(site.product, (*e.nodes, here)), Replacement(pair[1].output[0], tuple(after.nodes))


def read_map(e: Emitter, site: Site, wiring: Wiring, taken: list[Replacement]) -> Site:
    """The site with its map read from a copy of the model's chain, if that starts at a Softmax of dequantized scores.

    The copied Softmax has its axis written in the other way (-1 instead of the number of the last axis, or the number
    instead of -1), since an optimizer would merge equal nodes.
    """
    softmax = wiring.maker.get(site.probabilities)
    chain: list[onnx.NodeProto] = []
    while softmax is not None and softmax.op_type != "Softmax" and len(chain) < _LONGEST_CHAIN:
        chain.insert(0, softmax)
        softmax = wiring.maker.get(softmax.input[_mapped_input(softmax)]) if softmax.input else None
    if (
        softmax is None
        or softmax.op_type != "Softmax"
        or e.opset < _FIRST_NEGATIVE_AXIS_OPSET
        or site.softmax_rank is None
    ):
        return site
    if _dequantizer(wiring, softmax.input[0])[0] is None:
        return site
    signed = site.quantizer_dtype != TensorProto.UINT8
    scores = _read(e, wiring, softmax.input[0], taken) if signed else softmax.input[0]
    copies = {softmax.output[0]: e.copy(softmax, [scores], "map_beside")}
    axis = next((attribute.i for attribute in softmax.attribute if attribute.name == "axis"), 1 if e.opset < 13 else -1)
    del e.nodes[-1].attribute[:]
    e.nodes[-1].attribute.append(
        helper.make_attribute("axis", axis - site.softmax_rank if axis >= 0 else axis + site.softmax_rank)
    )
    for node in chain:
        copies[node.output[0]] = e.copy(node, [copies.get(name, name) for name in node.input], "map_beside")
    return replace(site, probabilities=copies[site.probabilities])


def _pair_after(wiring: Wiring, product: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """QuantizeLinear and DequantizeLinear after the product, if nothing else reads the product; else None."""
    quantizer = _one_reader(wiring, product, "QuantizeLinear")
    dequantizer = None if quantizer is None else _one_reader(wiring, quantizer.output[0], "DequantizeLinear")
    return None if quantizer is None or dequantizer is None else (quantizer, dequantizer)


def _emit_pair(e: Emitter, value: str, quantizer: onnx.NodeProto, dequantizer: onnx.NodeProto) -> None:
    """Emit a copy of the model's pair that reads `value`; its output takes the name of the model's output."""
    quantized = e.copy(quantizer, [value, *dequantizer.input[1:]], "requantized")
    e.copy(dequantizer, [quantized, *dequantizer.input[1:]], "dequantized")
    e.nodes[-1].output[0] = dequantizer.output[0]


def _mapped_input(node: onnx.NodeProto) -> int:
    """Index of the input with the map: the last one of a Where (the NaN guard), else the first."""
    return 2 if node.op_type == "Where" else 0


def _read(e: Emitter, wiring: Wiring, value: str, taken: list[Replacement]) -> str:
    """A copy of a dequantized value (moved or not) that the patch may read; any other value unchanged."""
    dequantizer, movers = _dequantizer(wiring, value)
    if dequantizer is None:
        return value
    quantizer = wiring.maker.get(dequantizer.input[0])
    single = all(
        wiring.has_one_reader(name)
        for name in (dequantizer.input[0], *(node.output[0] for node in (dequantizer, *movers)))
    )
    if quantizer is None or quantizer.op_type != "QuantizeLinear" or not single:
        return value

    def take(body: Emitter) -> str:
        inner = body.branch()
        read = inner.op("Concat", inner.copy(dequantizer, dequantizer.input, "dequantized"), axis=0, role="apart")
        _emit_pair(inner, read, quantizer, dequantizer)
        taken.append(Replacement(dequantizer.output[0], tuple(inner.nodes)))
        return read

    read = e.shared(f"read:{dequantizer.output[0]}", take)
    for mover in movers:
        place = _moved_input(wiring, mover)
        read = e.copy(mover, [read if index == place else name for index, name in enumerate(mover.input)], "moved")
    return read


def _dequantizer(wiring: Wiring, value: str) -> tuple[onnx.NodeProto | None, Sequence[onnx.NodeProto]]:
    """The DequantizeLinear that a value comes from, and the operators after it that move or scale it, in order."""
    movers: list[onnx.NodeProto] = []
    node = wiring.maker.get(value)
    while node is not None and len(movers) < _LONGEST_CHAIN and (place := _moved_input(wiring, node)) is not None:
        movers.insert(0, node)
        node = wiring.maker.get(node.input[place])
    return (node, movers) if node is not None and node.op_type == "DequantizeLinear" else (None, ())


def _moved_input(wiring: Wiring, node: onnx.NodeProto) -> int | None:
    """Index of the input that a runtime may use instead of the output, moved or not; None if there is none.

    An optimizer removes, for example, a product with 1.
    """
    if node.op_type in _MOVERS:
        return 0
    makers = [wiring.maker.get(name) for name in node.input]
    made = [index for index, maker in enumerate(makers) if maker is not None and maker.op_type != "Constant"]
    return made[0] if node.op_type in _REMOVABLE and len(made) == 1 else None


def _one_reader(wiring: Wiring, value: str, op_type: str) -> onnx.NodeProto | None:
    if not wiring.has_one_reader(value):
        return None
    reader = wiring.readers[value][0]
    return reader if reader.op_type == op_type else None
