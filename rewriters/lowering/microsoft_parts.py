"""Attributes and inputs of operators of `com.microsoft`, and parts of their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..emit import Emitter

__all__ = ["TO_END", "attributes_of", "columns_of", "input_of", "part", "split"]

TO_END = int(np.iinfo(np.int64).max)
"""The end of a Slice that keeps everything after its start."""


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def input_of(node: onnx.NodeProto, index: int) -> str:
    """Name of an input, "" when it is left out."""
    return node.input[index] if index < len(node.input) else ""


def part(e: Emitter, x: str, axis: int, start: str | int, end: str | int) -> str:
    """x[start:end] along an axis; start and end are numbers or names of 1-D int64 values."""
    ends = [end_ if isinstance(end_, str) else e.constant([end_], np.int64) for end_ in (start, end)]
    return e.op("Slice", x, *ends, e.constant([axis], np.int64))


def split(e: Emitter, x: str, sizes: Sequence[int] | None, axis: int) -> list[str]:
    """Three pieces along an axis, equal ones when no sizes are given."""
    names = [e.value("piece") for _ in range(3)]
    inputs: list[str] = [x]
    attributes: dict[str, Any] = {"axis": axis}
    if sizes is not None and e.opset >= 13:
        inputs.append(e.constant(list(sizes), np.int64))
    elif sizes is not None:
        attributes["split"] = list(sizes)
    elif e.opset >= 18:
        attributes["num_outputs"] = 3
    e.nodes.append(helper.make_node("Split", inputs, names, name=names[0], **attributes))
    return names


def columns_of(e: Emitter, count: str) -> str:
    """0, 1, ... for a 1-D int64 count."""
    zero, one = e.constant(0, np.int64), e.constant(1, np.int64)
    return e.op("Range", zero, e.squeeze(count, 0), one, role="positions")
