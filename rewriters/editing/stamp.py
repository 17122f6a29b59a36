"""The stamp that a patched model carries in `metadata_props`: what was patched, and how to undo it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import onnx

from ..errors import STAMP_MISMATCH
from ..sites import Where

__all__ = ["KEY", "Edit", "read", "read_undo", "version", "write"]

KEY = "atpatch."
"""Every metadata key we write starts with this."""


@dataclass(frozen=True)
class Edit:
    """One replacement, as needed to undo it.

    Attributes:
        where: body, in the original model's node indices.
        index: position of the replaced node in the original body; past the end for appended nodes, 0 for nodes in front
            of all others.
        count: number of nodes that took its place.
        node: the replaced node, serialized; None for nodes that were only added.
    """

    where: Where
    index: int
    count: int
    node: bytes | None


def write(model: onnx.ModelProto, facts: dict[str, str], edits: Sequence[Edit]) -> None:
    """Append the stamp: `facts` under `atpatch.<key>`, and the undo record."""
    record = [
        {
            "where": edit.where,
            "index": edit.index,
            "count": edit.count,
            "node": edit.node and base64.b64encode(edit.node).decode(),
        }
        for edit in edits
    ]
    packed = base64.b64encode(zlib.compress(json.dumps(record).encode())).decode()
    for key, value in {**facts, "undo": packed}.items():
        model.metadata_props.add(key=KEY + key, value=value)


def read(model: onnx.ModelProto) -> dict[str, str]:
    """The facts of the stamp without the undo record; empty when the model carries none."""
    facts = {entry.key.removeprefix(KEY): entry.value for entry in model.metadata_props if entry.key.startswith(KEY)}
    facts.pop("undo", None)
    return facts


def read_undo(model: onnx.ModelProto) -> list[Edit]:
    """The undo record.

    Raises:
        AtpatchError: ATP014 when it is missing or damaged.
    """
    try:
        packed = next(entry.value for entry in model.metadata_props if entry.key == KEY + "undo")
        record: list[dict[str, Any]] = json.loads(zlib.decompress(base64.b64decode(packed)))
        return [
            Edit(
                where=tuple((int(step), str(attribute)) for step, attribute in row["where"]),
                index=int(row["index"]),
                count=int(row["count"]),
                node=base64.b64decode(row["node"]) if row["node"] else None,
            )
            for row in record
        ]
    except (StopIteration, ValueError, KeyError, TypeError, zlib.error) as error:
        raise STAMP_MISMATCH("the undo record in the model's metadata is missing or damaged") from error


@cache  # a package's metadata holds its README, which is parsed to find the version
def version() -> str:
    """The installed version of this package, "0" where it is not installed."""
    try:
        return metadata.version("atpatch-onnx")
    except metadata.PackageNotFoundError:
        return "0"
