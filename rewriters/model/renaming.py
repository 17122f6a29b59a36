"""Copies nodes and their subgraphs with other names for the values that they read and make."""

from __future__ import annotations

from collections.abc import Callable

import onnx

__all__ = ["mentions", "renamed"]


def mentions(node: onnx.NodeProto, names: set[str]) -> bool:
    """Whether a node or one of its subgraphs reads or makes one of these values."""
    return (
        not names.isdisjoint(node.input)
        or not names.isdisjoint(node.output)
        or any(
            mentions(inner, names) or any(value.name in names for value in attribute.g.output)
            for attribute in node.attribute
            if attribute.type == onnx.AttributeProto.GRAPH
            for inner in attribute.g.node
        )
    )


def renamed(
    node: onnx.NodeProto, name_of: Callable[[str], str], inner: Callable[[str], str] | None = None
) -> onnx.NodeProto:
    """A copy of a node with every value it reads or makes renamed.

    Args:
        name_of: new name of a value of the node's own body.
        inner: new name of what a subgraph defines; None: these names stay.
    """
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    if inner is not None and twin.name:
        twin.name = inner(twin.name)
    _rename(twin, name_of, inner)
    return twin


def _rename(node: onnx.NodeProto, name_of: Callable[[str], str], inner: Callable[[str], str] | None) -> None:
    for field in (node.input, node.output):
        field[:] = [name_of(name) if name else "" for name in field]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _rename_graph(attribute.g, name_of, inner)


def _rename_graph(graph: onnx.GraphProto, name_of: Callable[[str], str], inner: Callable[[str], str] | None) -> None:
    """Values that the graph defines hide outer values of the same name."""
    local = {output for node in graph.node for output in node.output}
    local |= {value.name for value in (*graph.input, *graph.initializer)}

    def here(name: str) -> str:
        if name in local:
            return inner(name) if inner else name
        return name_of(name)

    for node in graph.node:
        if inner is not None and node.name:
            node.name = inner(node.name)
        _rename(node, here, inner)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = here(value.name)
    # Inferred types of inner values are optional; under the old names they would be wrong.
    if inner is not None:
        del graph.value_info[:]
