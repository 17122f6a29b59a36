"""A site between Q/DQ pairs: the map goes Softmax → QuantizeLinear → DequantizeLinear → product.

Runtimes turn DequantizeLinear, operator, QuantizeLinear into one operator on integers, as long as nothing else reads
the values between. So the model's own operators stay as they are, pair by pair, and with them every bit of what is not
flagged:

1. The map is read from a copy of the Softmax and what follows, where a runtime could turn the model's own into
   integers.
2. The redistribution is computed in float32 beside the product, and chosen behind the pair that requantizes the
   product. What is chosen goes through a second pair like that one, so that its reader still reads a dequantized value;
   numbers out of a pair survive its like.
3. A pair with one reader keeps one reader. Where the patch reads such a value, it goes through a copy that no optimizer
   removes, and then through a second pair for the model. onnxruntime turns a pair of int8 into one of uint8 only if
   QuantizeLinear has one reader, and makes one of two pairs in a row only if nothing comes between. A pair with several
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
_PERHAPS_NOTHING = frozenset({"Add", "Div", "Mul", "Sub"})
"""Taken out by onnxruntime where the other operand is a constant that changes nothing."""


def read_values(e: Emitter, site: Site, wiring: Wiring, taken: list[Replacement]) -> Site:
    """The site with its values where the patch may read them; adds to `taken` what that replaces."""
    return replace(site, values=_read(e, wiring, site.values, taken))


def patch_between_pairs(
    e: Emitter, site: Site, any_flagged: str, wiring: Wiring, patched: Callable[[Emitter, KeptOperands], str]
) -> tuple[Replacement, ...]:
    """Emit the choice between the product and what `patched` emits: at the product, or behind the pair that requantizes
    it.

    Args:
        site: with map and values as `read_map` and `read_values` give them.
    """
    product, pair = wiring.maker[site.product], _pair_behind(wiring, site.product)
    behind = e.branch()
    if pair is None:
        raw = kept = behind.copy(product, product.input, "product")
        end = site.product
    else:
        quantizer, dequantizer = pair
        raw = behind.copy(dequantizer, dequantizer.input, "dequantised")
        kept = behind.op("Concat", raw, axis=0, role="apart")
        end = behind.value("chosen")
        # No reader in this body: an output of the graph, or read in subgraphs alone.
        if wiring.has_one_reader(dequantizer.output[0]) or not wiring.readers[dequantizer.output[0]]:
            raw = kept
    operands = KeptOperands(site, kept, Canonical(site))
    if e.conditional:
        then, otherwise = behind.branch(), behind.branch()
        kinds = [operands.dtype]
        branches = (
            Branch(then, [patched(then, operands)], kinds),
            Branch(otherwise, [otherwise.op("Identity", raw)], kinds),
        )
        gate(behind, any_flagged, *branches, [end])
    else:
        behind.op("Where", any_flagged, patched(behind, operands), raw)
        behind.nodes[-1].output[0] = end
    if pair is None:
        return (Replacement(site.product, (*e.nodes, *behind.nodes)),)
    _paired(behind, end, *pair)
    here = onnx.NodeProto()
    here.CopyFrom(product)
    return Replacement(site.product, (*e.nodes, here)), Replacement(pair[1].output[0], tuple(behind.nodes))


def read_map(e: Emitter, site: Site, wiring: Wiring, taken: list[Replacement]) -> Site:
    """The site with its map from a copy of the model's own chain, from a Softmax of dequantized scores on; else as the
    model has it.

    The copied Softmax has its axis written the other way round (-1 for the last one's number, or that for -1): equal
    nodes would be made one again.
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
    beside = {softmax.output[0]: e.copy(softmax, [scores], "map_beside")}
    axis = next((attribute.i for attribute in softmax.attribute if attribute.name == "axis"), 1 if e.opset < 13 else -1)
    del e.nodes[-1].attribute[:]
    e.nodes[-1].attribute.append(
        helper.make_attribute("axis", axis - site.softmax_rank if axis >= 0 else axis + site.softmax_rank)
    )
    for node in chain:
        beside[node.output[0]] = e.copy(node, [beside.get(name, name) for name in node.input], "map_beside")
    return replace(site, probabilities=beside[site.probabilities])


def _pair_behind(wiring: Wiring, product: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """QuantizeLinear and DequantizeLinear, where the product goes through one pair and nowhere else."""
    quantizer = _one_reader(wiring, product, "QuantizeLinear")
    dequantizer = None if quantizer is None else _one_reader(wiring, quantizer.output[0], "DequantizeLinear")
    return None if quantizer is None or dequantizer is None else (quantizer, dequantizer)


def _paired(e: Emitter, value: str, quantizer: onnx.NodeProto, dequantizer: onnx.NodeProto) -> None:
    """Emit a pair like the model's around `value`; its end has the name that the model's has."""
    quantised = e.copy(quantizer, [value, *dequantizer.input[1:]], "requantised")
    e.copy(dequantizer, [quantised, *dequantizer.input[1:]], "dequantised")
    e.nodes[-1].output[0] = dequantizer.output[0]


def _mapped_input(node: onnx.NodeProto) -> int:
    """Which input the map comes in by: the last one of a Where (the NaN guard), else the first."""
    return 2 if node.op_type == "Where" else 0


def _read(e: Emitter, wiring: Wiring, value: str, taken: list[Replacement]) -> str:
    """A dequantized value, moved or not, for the patch to read; any other as it is."""
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
        read = inner.op("Concat", inner.copy(dequantizer, dequantizer.input, "dequantised"), axis=0, role="apart")
        _paired(inner, read, quantizer, dequantizer)
        taken.append(Replacement(dequantizer.output[0], tuple(inner.nodes)))
        return read

    read = e.shared(f"read:{dequantizer.output[0]}", take)
    for mover in movers:
        place = _moved_input(wiring, mover)
        read = e.copy(mover, [read if index == place else name for index, name in enumerate(mover.input)], "moved")
    return read


def _dequantizer(wiring: Wiring, value: str) -> tuple[onnx.NodeProto | None, Sequence[onnx.NodeProto]]:
    """The DequantizeLinear that a value comes from, and what moves or scales it on the way, in order."""
    movers: list[onnx.NodeProto] = []
    node = wiring.maker.get(value)
    while node is not None and len(movers) < _LONGEST_CHAIN and (place := _moved_input(wiring, node)) is not None:
        movers.insert(0, node)
        node = wiring.maker.get(node.input[place])
    return (node, movers) if node is not None and node.op_type == "DequantizeLinear" else (None, ())


def _moved_input(wiring: Wiring, node: onnx.NodeProto) -> int | None:
    """Which input a runtime may put in the place of the output, moved or not at all: a product with 1 is none.

    None: it cannot.
    """
    if node.op_type in _MOVERS:
        return 0
    makers = [wiring.maker.get(name) for name in node.input]
    made = [index for index, maker in enumerate(makers) if maker is not None and maker.op_type != "Constant"]
    return made[0] if node.op_type in _PERHAPS_NOTHING and len(made) == 1 else None


def _one_reader(wiring: Wiring, value: str, op_type: str) -> onnx.NodeProto | None:
    if not wiring.has_one_reader(value):
        return None
    reader = wiring.readers[value][0]
    return reader if reader.op_type == op_type else None
