"""`onnx`: a user's own detector graph, (B, H, Q, K) → (B, K) float32, inserted without changes.

Refused (ATP017): more than one input or output, local functions, operators outside the default domain, or an opset
that does not convert to the model's.
"""

from __future__ import annotations

import onnx
from onnx import compose, helper, version_converter

from ...emit import Emitter
from ...errors import DETECTOR_MODEL, ModelError
from ...model import boundary, io as model_io
from ...plan import OnnxGraph
from ..context import MapContext

__all__ = ["scores"]


def scores(e: Emitter, context: MapContext, detector: OnnxGraph) -> str:
    """(B, K), the user's scores."""
    model = _checked(detector.model, e.opset)
    graph = boundary.call(
        DETECTOR_MODEL, "the detector cannot be renamed", compose.add_prefix, model, e.value("user") + "/"
    ).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise DETECTOR_MODEL(f"the detector has {len(inputs)} inputs and {len(graph.output)} outputs, not one of each")
    e.nodes.append(helper.make_node("Identity", [context.map], [inputs[0]], name=inputs[0]))
    e.nodes.extend(
        helper.make_node("Constant", [], [tensor.name], name=tensor.name, value=tensor) for tensor in graph.initializer
    )
    e.nodes.extend(graph.node)
    return str(graph.output[0].name)


def _checked(data: bytes, opset: int) -> onnx.ModelProto:
    try:
        model = boundary.parse(data, "it")
        model_io.check(model)
    except ModelError as error:
        raise DETECTOR_MODEL(f"the detector is not a valid ONNX model: {error.what}") from error
    foreign = {entry.domain for entry in model.opset_import} - {"", "ai.onnx"}
    if foreign or model.functions:
        raise DETECTOR_MODEL(f"the detector uses {', '.join(sorted(foreign)) or 'local functions'}")
    version = next(entry.version for entry in model.opset_import)
    if version == opset:
        return model
    what = f"the detector's opset {version} does not convert to the model's {opset}"
    return boundary.call(DETECTOR_MODEL, what, version_converter.convert_version, model, opset)
