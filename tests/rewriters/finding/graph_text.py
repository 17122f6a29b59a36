"""A graph in onnx's text form, as the finder reads it: indexed, and swept for shapes. Nothing is inferred by onnx."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser

from rewriters.finding.backward import Scores, find_scores
from rewriters.finding.facts import Dims, Facts
from rewriters.finding.forward import Hit, follow_map
from rewriters.finding.softmax_match import Anchor, read_anchor
from rewriters.finding.sweep import gather_facts
from rewriters.finding.view import View, build_view

__all__ = ["Reading", "read", "text_model"]


@dataclass(frozen=True)
class Reading:
    """What the finder knows of a graph."""

    view: View
    facts: Facts

    def value(self, name: str) -> ir.Value:
        """The value of a name, in whatever body."""
        graphs = [self.view.model.graph, *self.view.model.functions.values()]
        values = [value for graph in graphs for value in graph.inputs]
        values += self.view.model.graph.initializers.values()
        for node in self.view.homes:
            values += [*(value for value in node.inputs if value is not None), *node.outputs]
        return next(value for value in values if value.name == name)

    def maker(self, name: str) -> ir.Node:
        """The node that makes a value."""
        node = self.value(name).producer()
        assert node is not None
        return node

    def shape(self, name: str) -> Dims | None:
        return self.facts.shape(self.value(name))

    def walks(self, output: str = "p", axis: int | None = None) -> tuple[Anchor, Hit, Scores]:
        """What is found around the Softmax (or what comes to the same) that makes a value; `axis`: that of its keys."""
        anchor = read_anchor(self.view, self.facts, self.maker(output))
        assert isinstance(anchor, Anchor)
        anchor = anchor if axis is None else replace(anchor, axis=axis)
        scores = find_scores(self.view, self.facts, anchor)
        assert isinstance(scores, Scores)
        return anchor, follow_map(self.view, self.facts, anchor).hits[0], scores

    def elements(self, name: str) -> Dims | None:
        return self.facts.elements.get(self.value(name))


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
    return Reading(view, gather_facts(view))
