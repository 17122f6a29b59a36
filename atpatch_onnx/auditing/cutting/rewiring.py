"""Gives the readers of a planted value the network's own value, and removes what nothing reads any more."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

from rewriters.model.bodies import Body, inputs_of, outputs_of, reads, walk_bodies

from ..finding import label
from .named import Place, places

__all__ = ["MOST", "candidates", "inner_values", "rewired"]

MOST = 48
"""Values that are tried in place of a planted one."""


def candidates(place: Place, value: str) -> Iterator[str]:
    """Values that the network may have had in place of this one: what the named nodes read on the way to it, and for an
    If what its branches give; the nearest first.
    """
    makers = {name: node for node in place.body.node for name in node.output if name}
    made = place.made
    waiting, seen = [value], {value}
    count = 0
    while waiting and count < MOST:
        node = makers.get(waiting.pop(0))
        if node is None:
            continue
        inside = [name for attribute in node.attribute for name in _given(attribute)]
        for name in [*node.input, *inside, *sorted(reads(node) - set(node.input))]:
            if not name or name in seen:
                continue
            seen.add(name)
            if name in makers or name in inputs_of(place.body):
                count += 1
                yield name
            if name in made:
                waiting.append(name)


def inner_values(place: Place, value: str) -> Iterator[str]:
    """The value, and those that named nodes make on the way to it, the nearest first: a finding may name nodes of the
    network behind the plant, too.
    """
    makers = {name: node for node in place.nodes.values() for name in node.output if name}
    waiting, seen = [value], {value}
    while waiting:
        name = waiting.pop(0)
        if (node := makers.get(name)) is None:
            continue
        yield name
        fresh = [read for read in sorted(reads(node)) if read not in seen]
        seen.update(fresh)
        waiting += fresh


def rewired(model: onnx.ModelProto, place: Place, value: str, own: str) -> onnx.ModelProto | None:
    """A copy of the model in which `own` stands for `value`, without the nodes that only the planted part needed; None
    where the value cannot be exchanged, or nodes would go that no finding names.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    twin = next((one for one in places(copy, set(place.nodes)) if one.path == place.path), None)
    if twin is None:
        return None
    body = twin.body
    before = _live(body)
    for node in body.node:
        _exchange(node, value, own)
    if value in outputs_of(body):
        maker = next((node for node in body.node if value in node.output), None)
        if maker is None:
            return None
        maker.output[:] = [f"{value}/cut" if name == value else name for name in maker.output]
        body.node.append(helper.make_node("Identity", [own], [value], name=f"{value}/own"))
    # Nodes that nothing read before stay as they were.
    dead = before - _live(body)
    if any(_acts(body.node[at], body) and not _named(body.node[at], twin) for at in dead):
        return None
    unread = set(inputs_of(body)) & _read(body, before) - _read(body, before - dead)
    if unread:
        return None  # such as a mask, which may not matter on the rows at hand
    for at in sorted(dead, reverse=True):
        del body.node[at]
    if value in outputs_of(body):
        _tidy(body, value, own)
    _drop_weights(copy, model)
    return copy


def _read(body: Body, nodes: set[int]) -> set[str]:
    return {name for at in nodes for name in reads(body.node[at])}


def _acts(node: onnx.NodeProto, body: Body) -> bool:
    """Whether a node reads more than constants."""
    made = {name for one in body.node if one.op_type != "Constant" for name in one.output}
    return not reads(node).isdisjoint({*made, *inputs_of(body)})


def _named(node: onnx.NodeProto, place: Place) -> bool:
    return any(label(one) == label(node) for one in place.nodes.values())


def _given(attribute: onnx.AttributeProto) -> list[str]:
    """Values of the body itself that a branch hands on as they are."""
    if attribute.type != onnx.AttributeProto.GRAPH:
        return []
    names = []
    makers = {name: node for node in attribute.g.node for name in node.output}
    for output in attribute.g.output:
        name = output.name
        while name in makers and makers[name].op_type == "Identity":
            name = makers[name].input[0]
        names.append(name)
    return names


def _exchange(node: onnx.NodeProto, value: str, own: str) -> None:
    """Readers of `value` read `own`, in the node and in its bodies."""
    node.input[:] = [own if name == value else name for name in node.input]
    for attribute in node.attribute:
        if attribute.type != onnx.AttributeProto.GRAPH:
            continue
        inner = attribute.g
        if value in {name for one in inner.node for name in one.output} or value in inputs_of(inner):
            continue  # another value of this name
        for one in inner.node:
            _exchange(one, value, own)
        if value in outputs_of(inner):
            inner.node.append(helper.make_node("Identity", [own], [f"{value}/own"]))
            for output in inner.output:
                output.name = f"{value}/own" if output.name == value else output.name


def _live(body: Body) -> set[int]:
    """Places of the nodes that the outputs need."""
    makers = {name: place for place, node in enumerate(body.node) for name in node.output if name}
    waiting, found = outputs_of(body), set()
    while waiting:
        place = makers.get(waiting.pop())
        if place is not None and place not in found:
            found.add(place)
            waiting += reads(body.node[place])
    return found


def _tidy(body: Body, value: str, own: str) -> None:
    """Let the own value's maker make the output itself, where nothing else reads it."""
    (last,) = [node for node in body.node if node.name == f"{value}/own"]
    maker = next((node for node in body.node if own in node.output), None)
    others = [node for node in body.node if node is not last and own in reads(node)]
    if maker is None or others or own in outputs_of(body):
        return
    maker.output[:] = [value if name == own else name for name in maker.output]
    body.node.remove(last)


def _drop_weights(model: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """Remove the constants and functions that only the removed nodes used."""

    def used(one: onnx.ModelProto) -> set[str]:
        names = {name for _, body in walk_bodies(one) for node in body.node for name in node.input}
        return names | {name for _, body in walk_bodies(one) for name in outputs_of(body)}

    gone = used(before) - used(model)
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in gone]:
        model.graph.initializer.remove(tensor)
    called, once = (
        {(node.domain, node.op_type) for _, body in walk_bodies(one) for node in body.node} for one in (model, before)
    )
    for at in reversed(range(len(model.functions))):
        key = (model.functions[at].domain, model.functions[at].name)
        if key in once - called:
            del model.functions[at]
