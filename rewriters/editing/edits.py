"""Makes replacements in a ModelProto, and undoes them: only node lists are rebuilt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import onnx

from ..errors import STAMP_MISMATCH
from ..model.bodies import Body, body_at, walk_bodies
from ..names import is_inserted, is_ours
from ..sites import Where
from ..subgraphs.gating import Replacement
from .stamp import Edit

__all__ = ["apply", "drop_unread_constants", "refill", "restore"]


def apply(
    model: onnx.ModelProto,
    replacements: dict[Where, list[Replacement]],
    appended: list[onnx.NodeProto],
    ahead: Mapping[Where, Sequence[onnx.NodeProto]] = MappingProxyType({}),
) -> list[Edit]:
    """Make all replacements, innermost bodies first, since rebuilding a node list moves the bodies in its nodes.

    Args:
        appended: nodes behind the main graph.
        ahead: nodes in front of a body.
    """
    edits = []
    for where in sorted({*replacements, *([()] if appended else [])}, key=len, reverse=True):
        body = body_at(model, where)
        by_output = {replacement.output: replacement for replacement in replacements.get(where, [])}
        nodes = list(ahead.get(where, ()))
        if nodes:
            edits.append(Edit(where, 0, len(nodes), None))
        for index, node in enumerate(body.node):
            replacement = next((by_output[output] for output in node.output if output in by_output), None)
            if replacement is None:
                nodes.append(node)
            else:
                edits.append(Edit(where, index, len(replacement.nodes), node.SerializeToString(deterministic=True)))
                nodes.extend(map(_in_default_domain, replacement.nodes))
        if where == () and appended:
            edits.append(Edit(where, len(body.node), len(appended), None))
            nodes.extend(map(_in_default_domain, appended))
        refill(body.node, nodes)
    return edits


def _in_default_domain(node: onnx.NodeProto) -> onnx.NodeProto:
    """Write the domain "ai.onnx" as "": onnxruntime accepts "ai.onnx" in the main graph, but not inside an If."""
    node.domain = "" if node.domain == "ai.onnx" else node.domain
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _in_default_domain(inner)
    return node


def drop_unread_constants(model: onnx.ModelProto) -> None:
    """Remove constants that no site needs in the end, since runtimes warn about unused initializers."""
    read: set[str] = set()
    for _, body in walk_bodies(model):
        read.update(name for node in body.node for name in node.input)
        if isinstance(body, onnx.GraphProto):
            read.update(value.name for value in body.output)
    for index in reversed(range(len(model.graph.initializer))):
        name = model.graph.initializer[index].name
        if is_inserted(name) and name not in read:
            del model.graph.initializer[index]


def restore(body: Body, edits: Sequence[Edit], watchful: bool) -> None:
    """Undo the edits of one body.

    Args:
        watchful: whether to check that the removed nodes are ours.

    Raises:
        AtpatchError: ATP014 where it is not.
    """
    nodes = list(body.node)
    restored: list[onnx.NodeProto] = []
    position = 0
    for edit in sorted(edits, key=lambda edit: edit.index):
        step = edit.index - len(restored)
        restored += nodes[position : position + step]
        original = None if edit.node is None else onnx.NodeProto.FromString(edit.node)
        position += step + edit.count
        if watchful and not all(_is_ours(node, original) for node in nodes[position - edit.count : position]):
            raise STAMP_MISMATCH("the undo record points at nodes that are not ours")
        if original is not None:
            restored.append(original)
    refill(body.node, restored + nodes[position:])


def _is_ours(node: onnx.NodeProto, original: onnx.NodeProto | None) -> bool:
    """Whether a patch may have written a node: by its names, or because it makes the replaced node's outputs."""
    made = set(node.output)
    return (
        is_ours(node.name)
        or any(is_ours(name) for name in made)
        or (original is not None and bool(made & {*original.output}))
    )


def refill(field: Any, items: Iterable[Any]) -> None:
    """Replace the content of a repeated field; the new items may be some of the old ones."""
    items = list(items)
    del field[:]
    field.extend(items)
