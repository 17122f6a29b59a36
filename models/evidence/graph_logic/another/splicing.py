"""Splice nodes that are written as text into a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["Arrays", "as_function", "host", "nodes_of", "replace_input", "replace_value"]

Arrays = Mapping[str, NDArray[Any]]


def host(path: Any) -> onnx.ModelProto:
    """The model in a file."""
    return onnx.load(str(path))


def nodes_of(text: str, names: Mapping[str, str], prefix: str) -> list[onnx.NodeProto]:
    """Nodes of a graph in ONNX's text syntax. Its values get the prefix, but those in `names` get the name there."""
    nodes = list(onnx.parser.parse_graph(text).node)
    for index, node in enumerate(nodes):
        node.name = f"{prefix}{node.op_type}_{index}"
        _rename(node, names, prefix)
    return nodes


def _rename(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> None:
    for values in (node.input, node.output):
        values[:] = [name and names.get(name, prefix + name) for name in values]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            graph = attribute.g
            for value in (*graph.input, *graph.output):
                value.name = names.get(value.name, prefix + value.name)
            for inner in graph.node:
                _rename(inner, names, prefix)


def replace_value(model: onnx.ModelProto, value: str, text: str, names: Mapping[str, str], arrays: Arrays) -> None:
    """Put nodes behind the value's node: they read it as `was` and give `now`, which takes its place."""
    prefix = _prefix(model)
    place = next(index for index, node in enumerate(model.graph.node) if value in node.output)
    producer, before = model.graph.node[place], prefix + "was"
    producer.output[:] = [before if name == value else name for name in producer.output]
    _insert(model, place + 1, nodes_of(text, {**names, "was": before, "now": value}, prefix), prefix, arrays)


def replace_input(model: onnx.ModelProto, value: str, text: str, names: Mapping[str, str], arrays: Arrays) -> None:
    """Put nodes in front of the graph: they read the input as `was`, and all others read `now` in its place."""
    prefix = _prefix(model)
    for node in model.graph.node:
        node.input[:] = [prefix + "now" if name == value else name for name in node.input]
    _insert(model, 0, nodes_of(text, {**names, "was": value}, prefix), prefix, arrays)


def as_function(model: onnx.ModelProto, text: str, name: str, domain: str, inputs: list[str]) -> None:
    """Make the nodes a function of the model; the values are its own."""
    graph = onnx.parser.parse_graph(text)
    opsets = [helper.make_opsetid("", next(one.version for one in model.opset_import if not one.domain))]
    outputs = [one.name for one in graph.output]
    model.functions.append(helper.make_function(domain, name, inputs, outputs, list(graph.node), opsets))
    model.opset_import.append(helper.make_opsetid(domain, 1))


def _insert(model: onnx.ModelProto, place: int, nodes: list[onnx.NodeProto], prefix: str, arrays: Arrays) -> None:
    whole = list(model.graph.node)
    whole[place:place] = nodes
    del model.graph.node[:]
    model.graph.node.extend(whole)
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), prefix + name))


def _prefix(model: onnx.ModelProto) -> str:
    """Names like those around: nothing tells a planted node by its name."""
    return f"/head/block_{len(model.graph.node)}/"
