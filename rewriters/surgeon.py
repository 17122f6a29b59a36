"""For people whose pipeline is onnx-graphsurgeon: patch a `gs.Graph`, and cut one site out as a model of its own.

graphsurgeon drops model metadata and inputs that are initializers too, so a graph patched here has its controls frozen and carries no
stamp: keep the original, there is no `unpatch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .bodies import body_at
from .errors import NO_SITE
from .finder import find_sites
from .patcher import patch
from .plan import PatchPlan
from .sites import Site

__all__ = ["extract", "patch_graph"]

_PRODUCTS = {"MatMul", "FusedMatMul", "Einsum", "Gemm", "MatMulInteger", "QLinearMatMul"}
"""Walking back from the probabilities stops at these: the score product is the last node taken along."""

_LIMIT = 64
"""More nodes than this between scores and product is no single site any more."""


def patch_graph(graph: gs.Graph, plan: PatchPlan) -> gs.Graph:
    """Patch a graphsurgeon graph; the argument stays as it is.

    Raises:
        AtpatchError: as `patcher.patch`.
    """
    model = gs.export_onnx(graph)
    sites, _ = find_sites(model)
    return gs.import_onnx(patch(model, replace(plan, freeze=True), sites))


def extract(model: onnx.ModelProto, site_id: str, sites: Sequence[Site]) -> onnx.ModelProto:
    """One site as a tiny standalone model, from the score product to P·V; what flows in becomes graph inputs.

    Meant for bug reports: no weights travel with it, and it runs on random inputs.

    Raises:
        AtpatchError: ATP010 when there is no such site.
    """
    site = next((site for site in sites if site.id == site_id), None)
    if site is None:
        raise NO_SITE(f"there is no site {site_id!r}", "take an id from 'atpatch-onnx inspect'")
    graph = gs.import_onnx(_standalone(model, site))
    tensors = graph.tensors()
    product = tensors[site.product]
    nodes = _chain(product.inputs[0], site)
    made = {id(output) for node in nodes for output in node.outputs}
    # Without the weights, what a constant held is not needed to see how the site is wired, unless it is small.
    graph.inputs = [
        tensor
        for tensor in {id(t): t for node in nodes for t in node.inputs if isinstance(t, gs.Variable) and not t.is_empty()}.values()
        if id(tensor) not in made
    ]
    graph.outputs = [product]
    for tensor in (*graph.inputs, product):
        tensor.dtype = tensor.dtype or np.dtype(np.float32)
    graph.name = f"site {site.id}"
    graph.cleanup(remove_unused_graph_inputs=True).toposort()
    return gs.export_onnx(graph)


def _standalone(model: onnx.ModelProto, site: Site) -> onnx.ModelProto:
    """The body that holds the site as a main graph, with inferred types."""
    alone = onnx.ModelProto()
    alone.CopyFrom(onnx.shape_inference.infer_shapes(model))
    body = body_at(alone, site.where)
    if site.where:
        graph = onnx.GraphProto()
        graph.node.extend(body.node)
        graph.name = "body"
        graph.initializer.extend(alone.graph.initializer)
        if isinstance(body, onnx.GraphProto):
            graph.initializer.extend(body.initializer)
        graph.value_info.extend([*body.value_info, *alone.graph.value_info])
        alone.graph.CopyFrom(graph)
    return alone


def _chain(product: gs.Node, site: Site) -> list[gs.Node]:
    """The product and everything behind its probabilities, up to the score product."""
    found = {id(product): product}
    frontier = [product.inputs[site.operand]]
    while frontier and len(found) < _LIMIT:
        for node in frontier.pop(0).inputs:
            if id(node) not in found:
                found[id(node)] = node
                if node.op not in _PRODUCTS:
                    frontier += [tensor for tensor in node.inputs if isinstance(tensor, gs.Variable)]
    return list(found.values())
