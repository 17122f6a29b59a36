"""Small graphs as the finder reads them, for tests of its parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx.parser
import onnx_ir as ir

from rewriters.finding.backward import Scores, find_scores
from rewriters.finding.facts import Facts
from rewriters.finding.forward import follow_map
from rewriters.finding.heads import LeadingAxes
from rewriters.finding.skeleton import skeleton
from rewriters.finding.softmax_match import Anchor, read_anchor
from rewriters.finding.sweep import gather_facts
from rewriters.finding.view import View, build_view
from rewriters.model.boundary import to_ir

__all__ = ["Read", "leading_axes", "read"]


@dataclass(frozen=True)
class Read:
    """A model, indexed, and what is known about its values."""

    view: View
    facts: Facts
    values: dict[str, ir.Value] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ir.Value:
        return self.values[name]

    def node(self, output: str) -> ir.Node:
        """What makes a value."""
        node = self.values[output].producer()
        assert node is not None
        return node


def read(
    inputs: str, nodes: str, outputs: str = "float[?] unused", constants: str = "", *, opset: int = 17, rest: str = ""
) -> Read:
    """Read a graph in onnx's text format.

    Args:
        inputs, nodes, outputs, constants: as in that format; an output may be left out where nothing asks for it.
        rest: local functions.
    """
    text = f"""<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1, "local" : 1]>
    g ({inputs}) => ({outputs}) <{constants}> {{ {nodes} }} {rest}"""
    view = build_view(to_ir(skeleton(onnx.parser.parse_model(text))))
    values = {str(value.name): value for value in (*view.model.graph.inputs, *view.model.graph.initializers.values())}
    values |= {str(value.name): value for node in view.homes for value in node.outputs}
    return Read(view, gather_facts(view), values)


def leading_axes(graph: Read) -> LeadingAxes:
    """Of the map `p`, which enters one product."""
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    scores = find_scores(graph.view, graph.facts, anchor)
    assert isinstance(scores, Scores)
    (hit,) = follow_map(graph.view, graph.facts, anchor).hits
    read_value = hit.product.node.inputs[hit.product.operand]
    assert read_value is not None
    return LeadingAxes(graph.view, graph.facts, anchor, hit, scores, read_value, hit.product.values)
