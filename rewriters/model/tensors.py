"""Tensors stored in a model: where they are, and how many elements their shapes give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import onnx
from onnx import TensorProto

from ..errors import INVALID_MODEL
from .bodies import walk_bodies

__all__ = ["elements_of", "payload_bits", "walk_tensors"]

_PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
"""Bits of the element types that share bytes, in raw_data and in external files.

By name: older onnx releases lack some.
"""


def walk_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in a model: initializers and attributes, in the main graph, subgraphs and functions."""
    for _, body in walk_bodies(model):
        if isinstance(body, onnx.GraphProto):
            yield from body.initializer
            for sparse in body.sparse_initializer:
                yield sparse.values
                yield sparse.indices
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("sparse_tensor"):
                    yield attribute.sparse_tensor.values
                    yield attribute.sparse_tensor.indices


@cache
def payload_bits(data_type: int) -> int | None:
    """Bits of an element; None for strings and for types unknown to this onnx version."""
    name = next((name for name, number in TensorProto.DataType.items() if number == data_type), "UNDEFINED")
    if name in ("UNDEFINED", "STRING"):
        return None
    return _PACKED.get(name) or int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8


def elements_of(tensor: TensorProto) -> int:
    """Number of elements.

    Raises:
        AtpatchError: ATP005 for an unknown type or a negative dimension.
    """
    if tensor.data_type != TensorProto.STRING and payload_bits(tensor.data_type) is None:
        raise INVALID_MODEL(
            f"tensor {tensor.name!r} is of type {tensor.data_type}, which onnx {onnx.__version__} does not know"
        )
    if any(dim < 0 for dim in tensor.dims):
        raise INVALID_MODEL(f"tensor {tensor.name!r} has a negative dimension")
    return math.prod(tensor.dims)
