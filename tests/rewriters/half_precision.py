"""Models in half precision, and what to feed them."""

from __future__ import annotations

import copy
import warnings
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.exports import export_model

from .microsoft import Case

__all__ = ["CONVERSIONS", "feeds_for", "half", "halved", "rounded"]

CONVERSIONS: dict[str, dict[str, object]] = {
    "all": {},
    "softmax-kept": {"op_block_list": ["Softmax"]},
    "float-inputs": {"keep_io_types": True},
    "mixed": {"op_block_list": ["Softmax", "LayerNormalization", "Erf"]},
}
"""Name → options of onnxruntime's converter."""


@cache
def halved(how: str, family: str, exporter: str) -> onnx.ModelProto:
    """An export, converted by onnxruntime's own tool."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers that half precision cannot hold are what it warns of
        return convert_float_to_float16(onnx.load(export_model(family, exporter).path), **CONVERSIONS[how])


def feeds_for(model: onnx.ModelProto, family: str, exporter: str, batch: int = 3) -> dict[str, np.ndarray]:
    """The export's feeds in the types of the model's inputs."""
    feeds = export_model(family, exporter).feeds(batch, padded=True)
    kinds = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in model.graph.input
    }
    return {name: array.astype(kinds[name]) for name, array in feeds.items() if name in kinds}


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same node in float16."""
    model = copy.deepcopy(model)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model


def rounded(one: Case) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The float32 node with weights and feeds that float16 can hold."""
    model = copy.deepcopy(one.model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    cast = {k: v.astype(np.float16).astype(np.float32) if v.dtype == np.float32 else v for k, v in one.feeds.items()}
    return model, cast
