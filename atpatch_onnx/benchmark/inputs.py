"""Inputs for timing: of a named shape and suited to the graph, or rows of a data set.

1. A symbolic axis takes the size given under its name; "x.1" names axis 1 of input x, whatever else it is called.
2. "a + b" is the sum of a and b, as exporters write the length of a mask over past and present.
3. Without a size a leading axis is 1 and any other `LENGTH`.
4. Floats are standard normal. Whole numbers that index a table (of words, positions, segments) are drawn from its rows;
   others, such as masks, are 1, and booleans True.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rewriters.names import STEERING

from ..errors import BAD_OPTION

__all__ = ["LENGTH", "axis_names", "parse_shape", "random_inputs", "table_rows"]

LENGTH = 128

Shape = Mapping[str, int]

# Operators that pass indices on unchanged.
_SAME = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Expand", "Transpose"}
_TABLE = {"Cast", "Identity", "DequantizeLinear", "Transpose"}
# com.microsoft EmbedLayerNormalization: input with ids → input with their table.
_EMBED = {0: 2, 1: 4, 8: 3}


def parse_shape(text: str) -> dict[str, int]:
    """Sizes by axis name, from "batch=8,sequence=128".

    Raises:
        AtpatchError: ATP060 where it is not of that form.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, sign, size = (word.strip() for word in part.partition("="))
        if not sign or not name or not size.isdecimal() or not int(size):
            raise BAD_OPTION(f"{text!r} is no shape", "write it like --shape batch=8,sequence=128")
        if sizes.setdefault(name, int(size)) != int(size):
            raise BAD_OPTION(f"{text!r} gives {name} two sizes")
    return sizes


def axis_names(model: onnx.ModelProto) -> dict[str, list[str | int]]:
    """Input name → its axes: a size, the symbolic name, or "<input>.<axis>" where there is none; without weights and
    controls.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    named: dict[str, list[str | int]] = {}
    for value in model.graph.input:
        if value.name in weights or value.name in STEERING:
            continue
        if not value.type.HasField("tensor_type"):
            raise BAD_OPTION(f"input {value.name!r} is no tensor", "bench graphs whose inputs are plain tensors")
        axes = value.type.tensor_type.shape.dim
        named[value.name] = [
            axis.dim_value
            if axis.HasField("dim_value") and axis.dim_value > 0
            else axis.dim_param or f"{value.name}.{index}"
            for index, axis in enumerate(axes)
        ]
    return named


def random_inputs(model: onnx.ModelProto, shape: Shape, seed: int = 0) -> dict[str, NDArray[Any]]:
    """One request, the same for the same seed (see the module's text).

    Raises:
        AtpatchError: ATP060 for a name that the graph does not have, and inputs of types that cannot be drawn.
    """
    axes = axis_names(model)
    known = {name for sizes in axes.values() for name in sizes if isinstance(name, str)}
    known |= {part for name in known for part in _sum(name)} | {
        f"{name}.{index}" for name, sizes in axes.items() for index in range(len(sizes))
    }
    if unknown := sorted(set(shape) - known):
        raise BAD_OPTION(
            f"the graph has no axis {unknown[0]!r}", f"its symbolic axes are {', '.join(sorted(known)) or 'none'}"
        )
    rows = table_rows(model)
    generator = np.random.default_rng(seed)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return {
        name: _draw(
            name,
            [_size(name, index, axis, shape) for index, axis in enumerate(sizes)],
            types[name],
            rows.get(name),
            generator,
        )
        for name, sizes in axes.items()
    }


def _size(name: str, index: int, axis: str | int, shape: Shape) -> int:
    if (own := f"{name}.{index}") in shape:
        return shape[own]
    if isinstance(axis, int):
        return axis
    if axis in shape:
        return shape[axis]
    parts = _sum(axis)
    if len(parts) > 1 and all(part in shape or part.isdecimal() for part in parts):
        return sum(shape.get(part) or int(part) for part in parts)
    return LENGTH if index else 1


def _sum(axis: str) -> list[str]:
    return [part.strip() for part in axis.split("+")]


def _draw(name: str, shape: list[int], kind: int, rows: int | None, generator: np.random.Generator) -> NDArray[Any]:
    try:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        dtype = np.dtype(object)
    if kind in (TensorProto.BFLOAT16, TensorProto.STRING) or dtype.kind not in "biuf":
        raise BAD_OPTION(f"input {name!r} is of a type that cannot be drawn at random", "give rows with --data")
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if dtype.kind == "b" or rows is None:
        return np.ones(shape, dtype)
    return generator.integers(0, rows, shape).astype(dtype)


def table_rows(model: onnx.ModelProto) -> dict[str, int]:
    """Input name → rows of the smallest table that it is an index into."""
    tables = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    origin = {value.name: value.name for value in model.graph.input}
    rows: dict[str, int] = {}

    def index(source: str, table: str) -> None:
        if source in origin and table in tables and tables[table]:
            name = origin[source]
            rows[name] = min(rows.get(name, tables[table][0]), tables[table][0])

    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tables[node.output[0]] = tuple(node.attribute[0].t.dims)
        elif node.op_type == "Gather" and all(
            attribute.i == 0 for attribute in node.attribute if attribute.name == "axis"
        ):
            index(node.input[1], node.input[0])
        elif node.op_type == "EmbedLayerNormalization":
            for ids, table in _EMBED.items():
                if max(ids, table) < len(node.input):
                    index(node.input[ids], node.input[table])
        if node.op_type in _SAME and node.input and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if node.op_type in _TABLE and node.input and node.input[0] in tables:
            dims = tables[node.input[0]]
            order = next(
                (attribute.ints for attribute in node.attribute if attribute.name == "perm"), range(len(dims))[::-1]
            )
            tables[node.output[0]] = tuple(dims[axis] for axis in order) if node.op_type == "Transpose" else dims
    return rows
