"""Requests without some of their tokens, and exports whose axes have names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

CUT = (2, 4)


def without(feeds: dict[str, np.ndarray], cut: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The request as a person would write it: tokens taken out, padding behind."""
    made = {name: np.zeros_like(array) for name, array in feeds.items()}
    for name, array in feeds.items():
        kept = np.delete(array, cut, axis=1)
        made[name][:, : kept.shape[1]] = kept
    return made


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The tokens' axis has one name in all inputs and outputs, which neither exporter sees to of its own accord."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in [*made.graph.input, *made.graph.output]:
        _, tokens, *width = value.type.tensor_type.shape.dim
        tokens.dim_param = "tokens"
        for dim in width:
            dim.dim_value = 32
    return made


def value(name: str, *shape: Any, dtype: int = TensorProto.INT64) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)
