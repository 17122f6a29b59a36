"""Bodies of nodes: the main graph, subgraphs of If/Loop/Scan, local functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import onnx

from ..sites import Where

__all__ = ["Body", "Wiring", "body_at", "inputs_of", "needed", "outputs_of", "reads", "walk_bodies"]

Body = onnx.GraphProto | onnx.FunctionProto


def walk_bodies(model: onnx.ModelProto) -> Iterator[tuple[Where, Body]]:
    """Every body with its path, outer before inner, the main graph first, then functions."""
    yield from _walk((), model.graph)
    for index, function in enumerate(model.functions):
        yield from _walk(((index, "function"),), function)


def _walk(where: Where, body: Body) -> Iterator[tuple[Where, Body]]:
    yield where, body
    for index, node in enumerate(body.node):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _walk((*where, (index, attribute.name)), attribute.g)


def body_at(model: onnx.ModelProto, where: Where) -> Body:
    """The body that a path leads to."""
    body: Body = model.graph
    for index, step in where:
        body = (
            model.functions[index]
            if step == "function"
            else next(a.g for a in body.node[index].attribute if a.name == step)
        )
    return body


def inputs_of(body: Body) -> list[str]:
    """Names of a body's inputs."""
    return [value if isinstance(value, str) else value.name for value in body.input]


def outputs_of(body: Body) -> list[str]:
    """Names of a body's outputs."""
    return [value if isinstance(value, str) else value.name for value in body.output]


def reads(node: onnx.NodeProto) -> set[str]:
    """Values that a node reads, including those that its subgraphs capture; inputs that are left out are none."""
    read = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            read |= {name for inner in attribute.g.node for name in reads(inner)} | {
                value.name for value in attribute.g.output
            }
    return read - {""}


def needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes of one body that outputs depend on, in its order, which may be any (see `io.check`)."""
    makers = {name: node for node in nodes for name in node.output if name}
    pending, made = list(outputs), set[str]()
    while pending:
        node = makers.get(pending.pop())
        if node is not None and made.isdisjoint(node.output):
            made.update(filter(None, node.output))
            pending += reads(node)
    return [node for node in nodes if not made.isdisjoint(node.output)]


class Wiring:
    """Which node makes and which nodes read each value of one body, not counting nodes inside subgraphs.

    Args:
        nodes: of the body.
        outputs: the body's outputs.
    """

    def __init__(self, nodes: Iterable[onnx.NodeProto], outputs: Iterable[str] = ()) -> None:
        self.maker: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._leaving = set(outputs)
        for node in nodes:
            self.maker.update(dict.fromkeys(node.output, node))
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
            if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
                self._leaving |= reads(node)

    def has_one_reader(self, name: str) -> bool:
        """Whether exactly one node of this body reads a value, and no subgraph or outer body does."""
        return len(self.readers[name]) == 1 and name not in self._leaving
