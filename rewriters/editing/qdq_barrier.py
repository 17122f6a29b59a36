"""Keeps values between Q/DQ nodes out of If branches, where onnxruntime (up to 1.32) cannot handle them.

Two of its passes rewire every reader of a value, and mistake a reader in a subgraph for an input that the If does not
have. Creating the session then aborts the process:

1. QDQ propagation puts a Q/DQ pair after each Reshape, Transpose, ... of a dequantized value.
2. QDQ cleanup removes a DequantizeLinear that is followed by a matching QuantizeLinear.

Only values in these positions get a copy, which no optimizer removes; a model without DequantizeLinear stays unchanged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import onnx
from onnx import TensorProto, helper

from ..errors import NOT_ADMITTED, AtpatchError
from ..model.bodies import Wiring, body_at
from ..model.renaming import renamed
from ..names import is_inserted, make_name
from ..sites import Where
from ..subgraphs.site import Replacement

__all__ = ["second_reader_refusal", "shield", "shield_all"]

_PROPAGATED = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_BYTES = (TensorProto.INT8, TensorProto.UINT8)
_NOTHING_DONE = frozenset({"Cast", "Dropout", "Identity"})


def shield(
    nodes: Sequence[onnx.NodeProto], replacements: Sequence[Replacement], appended: Sequence[onnx.NodeProto]
) -> tuple[list[Replacement], list[onnx.NodeProto]]:
    """Replacements and appended nodes of one body, with a copy before each of our Ifs that would capture such a value.

    Args:
        nodes: of the body, before they are replaced.
    """
    ours = [*(node for replacement in replacements for node in replacement.nodes), *appended]
    if not any(node.op_type == "DequantizeLinear" for node in _nested([*nodes, *ours])):
        return list(replacements), list(appended)
    maker = Wiring([*nodes, *ours]).maker
    count = itertools.count()
    shielded = [
        replace(replacement, nodes=tuple(_shielded(replacement.nodes, maker, count))) for replacement in replacements
    ]
    return shielded, list(_shielded(appended, maker, count))


def shield_all(
    model: onnx.ModelProto, replacements: dict[Where, list[Replacement]], appended: list[onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """Changes the replacements of all bodies as `shield` does; the same of what is appended to the main graph."""
    for where in {*replacements, ()}:
        nodes = body_at(model, where).node
        replacements[where], added = shield(nodes, replacements.get(where, []), appended if where == () else [])
        appended = added if where == () else appended
    return appended


def _shielded(
    nodes: Iterable[onnx.NodeProto], maker: Mapping[str, onnx.NodeProto], count: Iterator[int]
) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        branches = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
        if not is_inserted(node.name) or not branches:
            yield node
            continue
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        for attribute in twin.attribute:
            inner = list(_shielded(attribute.g.node, Wiring(attribute.g.node).maker, count))
            del attribute.g.node[:]
            attribute.g.node.extend(inner)
        copies: dict[str, str] = {}
        for name in _captured(branches):
            if _is_propagated(name, maker) or _is_requantized(name, maker):
                copies[name] = copy = make_name("captured", str(next(count)))
                yield helper.make_node("Concat", [name], [copy], name=copy, axis=0)
        yield renamed(twin, _by(copies)) if copies else twin


def second_reader_refusal(graph: onnx.GraphProto, *, branch_free: bool) -> AtpatchError | None:
    """Refuse a second run that would change how unflagged samples are rounded.

    It reads weights and values of the first run, and onnxruntime joins some operators only if nothing else reads the
    value between them.

    Raises:
        AtpatchError: ATP015 (1) for Q/DQ pairs without a branch, (2) for a dequantized weight that ends up in
            MatMulNBits.
    """
    if branch_free and any(node.op_type == "QuantizeLinear" for node in graph.node):
        return NOT_ADMITTED(
            "without a branch, a second run would break up the Q/DQ pairs of the first",
            "add --gating if, or --passes one",
        )
    wiring = Wiring(graph.node)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        factors = [wiring.maker.get(name) for name in node.input] if node.op_type == "MatMul" else []
        dequantized = [factor for factor in factors if factor is not None and factor.op_type == "DequantizeLinear"]
        weights = [factor for factor in dequantized if factor.input[0] in types]
        bytewise = [
            factor for factor in dequantized if types.get((*factor.input, "", "")[2], TensorProto.UINT8) in _BYTES
        ]
        if weights and len(bytewise) < len(factors):
            return NOT_ADMITTED(
                f"a second run would keep runtimes from joining {node.name} with its weight", "add --passes one"
            )
    return None


def _by(copies: Mapping[str, str]) -> Callable[[str], str]:
    return lambda name: copies.get(name, name)


def _captured(graphs: Iterable[onnx.GraphProto]) -> list[str]:
    """Values that subgraphs read from outside, once each, in the order of reading."""
    found: dict[str, None] = {}
    for graph in graphs:
        own = {name for node in graph.node for name in node.output}
        read = [
            name
            for node in graph.node
            for name in (*node.input, *_captured(a.g for a in node.attribute if a.HasField("g")))
        ]
        found.update(dict.fromkeys(name for name in read if name and name not in own))
    return list(found)


def _is_propagated(name: str, maker: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a value is a dequantized one that was only moved or reshaped."""
    node = maker.get(name)
    while node is not None and node.op_type in _PROPAGATED:
        node = maker.get(node.input[0])
        if node is not None and node.op_type == "DequantizeLinear":
            return True
    return False


def _is_requantized(name: str, maker: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a value is a dequantized one that is quantized again."""
    node = maker.get(name)
    if node is None or node.op_type != "QuantizeLinear":
        return False
    node = maker.get(node.input[0])
    while node is not None and node.op_type in _NOTHING_DONE:
        node = maker.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nested(attribute.g.node)
