"""Small graphs as the finder reads them, for tests of its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx.parser
import onnx_ir as ir

from rewriters.finding.backward import Scores, find_scores
from rewriters.finding.facts import Dims, Facts
from rewriters.finding.forward import Hit, follow_map
from rewriters.finding.heads import LeadingAxes
from rewriters.finding.skeleton import skeleton
from rewriters.finding.softmax_match import Anchor, read_anchor
from rewriters.finding.sweep import gather_facts
from rewriters.finding.view import View, build_view
from rewriters.model.boundary import to_ir

__all__ = ["Reading", "leading_axes", "read"]


@dataclass(frozen=True)
class Reading:
    """What the finder knows of a graph, and its values by name."""

    view: View
    facts: Facts
    values: dict[str, ir.Value]

    def __getitem__(self, name: str) -> ir.Value:
        return self.values[name]

    def node(self, output: str) -> ir.Node:
        """What makes a value."""
        node = self.values[output].producer()
        assert node is not None
        return node

    def shape(self, name: str) -> Dims | None:
        return self.facts.shape(self.values[name])

    def elements(self, name: str) -> Dims | None:
        return self.facts.elements.get(self.values[name])

    def walks(self, output: str = "p", axis: int | None = None) -> tuple[Anchor, Hit, Scores]:
        """What is found around the Softmax (or what comes to the same) that makes a value; `axis`: that of its keys."""
        anchor = read_anchor(self.view, self.facts, self.node(output))
        assert isinstance(anchor, Anchor)
        anchor = anchor if axis is None else replace(anchor, axis=axis)
        scores = find_scores(self.view, self.facts, anchor)
        assert isinstance(scores, Scores)
        return anchor, follow_map(self.view, self.facts, anchor).hits[0], scores


def read(
    inputs: str, nodes: str, outputs: str = "float[?] unused", constants: str = "", *, opset: int = 17, rest: str = ""
) -> Reading:
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
    return Reading(view, gather_facts(view), values)


def leading_axes(graph: Reading) -> LeadingAxes:
    """Of the map `p`, which enters one product."""
    anchor, hit, scores = graph.walks()
    assert follow_map(graph.view, graph.facts, anchor).hits == [hit]
    read_value = hit.product.node.inputs[hit.product.operand]
    assert read_value is not None
    return LeadingAxes(graph.view, graph.facts, anchor, hit, scores, read_value, hit.product.values)
