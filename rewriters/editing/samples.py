"""Which inputs and outputs of a model carry the samples of a request on their first axis."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import TensorProto

from ..model.bodies import Wiring

__all__ = ["carries_samples", "has_classes", "prediction_output", "requested", "sample_outputs"]


def requested(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that a request must have."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def carries_samples(value: onnx.ValueInfoProto) -> bool:
    """Whether the first axis is dynamic; a fixed axis of an input or output cannot take fewer rows."""
    dims = value.type.tensor_type.shape.dim
    return len(dims) > 0 and not dims[0].HasField("dim_value")


def sample_outputs(model: onnx.ModelProto) -> list[str]:
    """Outputs that carry samples and that a node makes."""
    made = Wiring(model.graph.node).maker
    return [value.name for value in model.graph.output if carries_samples(value) and value.name in made]


def prediction_output(model: onnx.ModelProto, outputs: Collection[str]) -> str | None:
    """The first of these outputs that holds class scores (B, classes); None where there is none."""
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if (
            value.name in outputs
            and tensor.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
            and len(tensor.shape.dim) == 2
        ):
            return str(value.name)
    return None


def has_classes(model: onnx.ModelProto, outputs: Collection[str]) -> bool:
    """Whether one of these outputs holds class scores, of more than one class as far as the graph says."""
    name = prediction_output(model, outputs)
    found = (value.type.tensor_type.shape.dim[1] for value in model.graph.output if value.name == name)
    return any(not (dim.HasField("dim_value") and dim.dim_value < 2) for dim in found)
