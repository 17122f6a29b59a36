"""Carrying replacements out in a ModelProto, and taking them back: node lists are rebuilt, nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    model: onnx.ModelProto, replacements: dict[Where, list[Replacement]], appended: list[onnx.NodeProto]
) -> list[Edit]:
    """Carry out all replacements, innermost bodies first, since rebuilding a node list moves the bodies inside its
    nodes.
    """
    edits = []
    for where in sorted({*replacements, *([()] if appended else [])}, key=len, reverse=True):
        body = body_at(model, where)
        by_output = {replacement.output: replacement for replacement in replacements.get(where, [])}
        nodes: list[onnx.NodeProto] = []
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
    """A copied node may say "ai.onnx", which onnxruntime takes in the main graph but not inside an If."""
    node.domain = "" if node.domain == "ai.onnx" else node.domain
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _in_default_domain(inner)
    return node


def drop_unread_constants(model: onnx.ModelProto) -> None:
    """Constants that were made before it was known whether a site needs them; runtimes warn about such initializers."""
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
    """Take edits of one body back.

    Args:
        watchful: what is cut out must be ours.

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
    """Whether a node may have been written by a patch: by its names, or since it makes what the replaced node made."""
    made = set(node.output)
    return (
        is_ours(node.name)
        or any(is_ours(name) for name in made)
        or (original is not None and bool(made & {*original.output}))
    )


def refill(field: Any, items: Iterable[Any]) -> None:
    """Replace the content of a repeated field, by items of its own too."""
    items = list(items)
    del field[:]
    field.extend(items)
