"""For people whose pipeline is onnx-graphsurgeon: patch a `gs.Graph`, and cut one site out as a model of its own.

graphsurgeon drops model metadata and inputs that are initializers too, so a graph patched here has its controls frozen
and carries no stamp: keep the original, there is no `unpatch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .editing.patcher import patch
from .errors import INVALID_MODEL, UNKNOWN_SITE
from .finding.finder import find_sites
from .model.bodies import body_at
from .model.boundary import call, infer_shapes
from .plan import PatchPlan
from .sites import Site

__all__ = ["extract", "patch_graph"]

_PRODUCTS = {"MatMul", "FusedMatMul", "Einsum", "Gemm", "MatMulInteger", "QLinearMatMul"}
"""Walking back from the probabilities stops at these: the score product is the last node taken along."""

_ENDS = _PRODUCTS | {"Shape"}
"""Sizes are computed from anything that has them, so they are no way back to a product."""

_LISTED = 8
"""Sites named in the message about a wrong id."""


def patch_graph(graph: gs.Graph, plan: PatchPlan) -> gs.Graph:
    """Patch a graphsurgeon graph; the argument stays as it is.

    Raises:
        AtpatchError: as `patcher.patch`.
    """
    model = gs.export_onnx(graph)
    sites, _ = find_sites(model)
    return gs.import_onnx(patch(model, replace(plan, controls="none"), sites))


def extract(model: onnx.ModelProto, site_id: str, sites: Sequence[Site]) -> onnx.ModelProto:
    """One site as a tiny standalone model, from the score product to P·V; what flows in becomes graph inputs.

    Meant for bug reports: no weights travel with it, and it runs on random inputs.

    Raises:
        AtpatchError: ATP058 where there is no such site.
    """
    site = next((site for site in sites if site.id == site_id), None)
    if site is None:
        known = ", ".join(one.id for one in sites[:_LISTED]) + (", …" if len(sites) > _LISTED else "")
        raise UNKNOWN_SITE(f"there is no site {site_id!r}; the model has {known or 'none'}")
    graph = call(INVALID_MODEL, "graphsurgeon cannot read the model", gs.import_onnx, _standalone(model, site))
    product = graph.tensors()[site.product]
    nodes = _chain(product.inputs[0], site)
    made = {id(output) for node in nodes for output in node.outputs}
    read = {
        id(tensor): tensor
        for node in nodes
        for tensor in node.inputs
        if isinstance(tensor, gs.Variable) and not tensor.is_empty()
    }
    graph.inputs = [tensor for key, tensor in read.items() if key not in made]
    graph.outputs = [product]
    for tensor in (*graph.inputs, product):
        # The checker wants a type and a rank; where inference gave none, the map's own are the best guess.
        tensor.dtype = tensor.dtype or np.dtype(np.float32)
        tensor.shape = tensor.shape if tensor.shape is not None else [None] * site.layout.rank
    graph.name = f"site {site.id}"
    graph.cleanup(remove_unused_graph_inputs=True).toposort()
    part: onnx.ModelProto = call(INVALID_MODEL, "graphsurgeon cannot write the part", gs.export_onnx, graph)
    return part


def _standalone(model: onnx.ModelProto, site: Site) -> onnx.ModelProto:
    """The body that holds the site as a main graph, with inferred types."""
    part = onnx.ModelProto()
    part.CopyFrom(infer_shapes(model))
    body = body_at(part, site.where)
    if site.where:
        graph = onnx.GraphProto()
        graph.node.extend(body.node)
        graph.name = "body"
        graph.initializer.extend(part.graph.initializer)
        if isinstance(body, onnx.GraphProto):
            graph.initializer.extend(body.initializer)
        graph.value_info.extend([*body.value_info, *part.graph.value_info])
        part.graph.CopyFrom(graph)
    return part


def _chain(product: gs.Node, site: Site) -> list[gs.Node]:
    """Nodes on the way from the score product to the P·V product, both included, and the Constant nodes they read."""
    behind: dict[int, gs.Node] = {}
    frontier = [product.inputs[site.operand]]
    while frontier:
        for node in frontier.pop().inputs:
            if id(node) not in behind:
                behind[id(node)] = node
                if node.op not in _ENDS:
                    frontier += [tensor for tensor in node.inputs if isinstance(tensor, gs.Variable)]
    # What does not come from a product (masks, position biases, shapes) flows in from outside.
    path: dict[int, gs.Node] = {}
    ahead = [node for node in behind.values() if node.op in _PRODUCTS]
    while ahead:
        node = ahead.pop()
        if id(node) in behind and id(node) not in path:
            path[id(node)] = node
            ahead += [reader for output in node.outputs for reader in output.outputs]
    path[id(product)] = product
    constants = {
        id(node): node
        for step in path.values()
        for tensor in step.inputs
        for node in tensor.inputs
        if node.op == "Constant"
    }
    return list({**path, **constants}.values())
