"""The nodes that findings name, in their bodies."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx

from rewriters.model.bodies import Body, outputs_of, reads

from ..finding import label

__all__ = ["Place", "places"]


@dataclass(frozen=True, eq=False)
class Place:
    """A body, and those of its nodes that findings name, as the names say.

    Attributes:
        path: of the body, "" for the main graph.
        nodes: name as in `Finding.nodes` → node.
    """

    path: str
    body: Body
    nodes: dict[str, onnx.NodeProto]

    @property
    def made(self) -> set[str]:
        """Values that the named nodes make."""
        return {name for node in self.nodes.values() for name in node.output if name}

    def leaving(self) -> list[str]:
        """Values of the named nodes that other nodes of the body, or its outputs, read."""
        named = {id(node) for node in self.nodes.values()}
        read = {name for node in self.body.node if id(node) not in named for name in reads(node)}
        read |= set(outputs_of(self.body))
        return [name for node in self.body.node if id(node) in named for name in node.output if name in read]


def places(model: onnx.ModelProto, names: Collection[str]) -> list[Place]:
    """Bodies with named nodes, the main graph first; a function is listed once, however often it is called. A call of a
    function with named nodes counts as named.
    """
    found: list[Place] = []
    bodies = list(_bodies(model))
    inside = {path for path, body in bodies if any(f"{path}/{label(node)}" in names for node in body.node)}
    for path, body in bodies:
        named = {}
        for node in body.node:
            name, called = (f"{path}/{word}".lstrip("/") for word in (label(node), node.op_type))
            if name in names or (node.domain and called in inside):
                named[name] = node
        if named and not any(body is one.body for one in found):
            found.append(Place(path, body, named))
    return found


def _bodies(model: onnx.ModelProto) -> Iterator[tuple[str, Body]]:
    functions = {(one.domain, one.name, one.overload): one for one in model.functions}

    def walk(path: str, body: Body, depth: int) -> Iterator[tuple[str, Body]]:
        yield path, body
        if depth > 64:
            return
        for node in body.node:
            called = functions.get((node.domain, node.op_type, node.overload))
            if called is not None:
                yield from walk(f"{path}/{called.name}".lstrip("/"), called, depth + 1)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    inner = f"{path}/{label(node)}/{attribute.name}".lstrip("/")
                    yield from walk(inner, attribute.g, depth + 1)

    yield from walk("", model.graph, 0)
