"""A graph in onnx's text form, as the finder reads it: indexed, and swept for shapes. Nothing is inferred by onnx."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser

from rewriters.finding.sweep import gather_facts
from rewriters.finding.view import build_view

from .reading import Reading

__all__ = ["read", "text_model"]


def text_model(
    body: str,
    inputs: str = "float[B,S] x",
    outputs: str = "out",
    *,
    opset: int = 17,
    functions: str = "",
    **constants: Any,
) -> onnx.ModelProto:
    """Inputs, body and functions in text form; keyword arguments become initializers."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1, "local" : 1]>'
    model = parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }} {functions}")
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return model


def read(
    body: str,
    inputs: str = "float[B,S] x",
    outputs: str = "out",
    *,
    opset: int = 17,
    functions: str = "",
    **constants: Any,
) -> Reading:
    """The reading of such a model."""
    model = text_model(body, inputs, outputs, opset=opset, functions=functions, **constants)
    view = build_view(ir.from_proto(model))
    graphs = [view.model.graph, *view.model.functions.values()]
    values = [value for graph in graphs for value in graph.inputs]
    values += view.model.graph.initializers.values()
    for node in view.homes:
        values += [*(value for value in node.inputs if value is not None), *node.outputs]
    # The first of a name counts: bodies may use one twice.
    return Reading(view, gather_facts(view), {str(value.name): value for value in reversed(values)})
