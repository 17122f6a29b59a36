"""Opens fused sites without a patch, for callers that read maps and values, such as `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx
from onnx import TensorProto, helper

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..lowering import FUSED, lower_fused
from ..model.bodies import body_at
from ..sites import Layout, Site
from ..traces import Lowered, Trace, Traces

__all__ = ["lower_fused_sites", "lowered_form", "with_lowered_forms"]


def lower_fused_sites(model: onnx.ModelProto, sites: Sequence[Site]) -> tuple[onnx.ModelProto, tuple[Site, ...]]:
    """A copy of the model in which maps and values of fused sites can be read, and the sites that name them.

    Lowered sites read map (B, H, Q, K) and values (B, H, K, D) in float32 and serve only for reading: patch the
    original model. Only fused sites of the main graph are lowered. Other sites, and a model without fused ones, stay
    unchanged.
    """
    fused = {site.product: site for site in sites if site.form in FUSED and not site.where}
    if not fused:
        return model, tuple(sites)
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    pool = ConstantPool(lowered.graph.initializer if model.ir_version >= 4 else None, "constant")
    nodes: list[onnx.NodeProto] = []
    readable: dict[str, Site] = {}
    for node in model.graph.node:
        site = next((fused[output] for output in node.output if output in fused), None)
        if site is None:
            nodes.append(node)
            continue
        e = Emitter(site.id, opset_of(model, ()), pool, {})
        operands = lower_fused(e, site, node)
        probabilities, values = operands.map(e), operands.values(e)
        e.nodes.append(helper.make_node("Identity", [operands.original(e)], [site.product], name=e.value("output")))
        nodes += e.nodes
        readable[site.id] = replace(
            site, probabilities=probabilities, values=values, layout=Layout(4), dtype=TensorProto.FLOAT
        )
    del lowered.graph.node[:]
    lowered.graph.node.extend(nodes)
    return lowered, tuple(readable.get(site.id, site) for site in sites)


def with_lowered_forms(model: onnx.ModelProto, traces: Traces) -> Traces:
    """The traces of this model, each fused site with what takes its place."""
    return replace(traces, traces=tuple(_with_lowered_form(model, trace) for trace in traces.traces))


def _with_lowered_form(model: onnx.ModelProto, trace: Trace) -> Trace:
    if trace.site is None or trace.site.form not in FUSED:
        return trace
    return replace(trace, lowered=lowered_form(model, trace.site))


def lowered_form(model: onnx.ModelProto, site: Site) -> Lowered:
    """The nodes that take the place of one fused operator, in any body, as `lowering` writes them; for display."""
    node = next(node for node in body_at(model, site.where).node if site.product in node.output)
    e = Emitter(site.id, opset_of(model, site.where), ConstantPool(onnx.GraphProto().initializer, "constant"), {})
    operands = lower_fused(e, site, node)
    probabilities, values, output = operands.map(e), operands.values(e), operands.original(e)
    return Lowered(
        tuple((made.op_type, tuple(filter(None, made.output))) for made in e.nodes), probabilities, values, output
    )
