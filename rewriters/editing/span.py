"""Telemetry of a marked span: how much of the answer row's attention goes to some tokens of the request, head by head.

The input `atpatch_span` (B, 2) int64 has the first column of each request's span, and the column behind its last one;
(1, 2) is for all requests. The output `atpatch_span_attention` (B, heads of all its sites) float32 has the sum of the
answer row's weights on these columns. Why two numbers and no mask (B, K): K grows with a cache, and the same two
numbers hold in the prompt and in every decoding step.

1. Sites: those that the plan names whose columns are proven to be the tokens of each request (`finding.own_tokens`).
2. The answer row is the last valid row (see `lowering.answer_row`). Next to a fused operator only what this row needs
   is computed, where the operator's own queries and keys show it; else its whole map.
3. Columns outside the map count nothing; a span that ends where it begins, or before, is empty, and its sum is 0.
4. What it reads is there with or without the span, so no other output changes. It does not depend on
   `atpatch_enabled`. In two passes it is of the first run. In a healed decoder it is of the healed keys.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..errors import NOT_ADMITTED, AtpatchError
from ..finding.own_tokens import own_token_sites
from ..lowering import FUSED, lower_fused
from ..lowering.answer_row import answer_rows, pick_row
from ..lowering.canonical import Canonical
from ..lowering.microsoft_parts import columns_of, part
from ..lowering.microsoft_recomputed import Recomputed
from ..lowering.operands import KnowsColumns
from ..model.bodies import Wiring, needed, reads
from ..names import SPAN, SPAN_ATTENTION
from ..plan import PatchPlan
from ..sites import Site
from ..subgraphs.gating import Replacement
from ..subgraphs.reading import reading_early
from ..subgraphs.validity import valid_columns
from .controls import OVERRIDABLE_FROM

__all__ = ["FACT", "add_span", "span_refusal", "span_sites"]

FACT = "span"
"""Stamp key: how the input is given, and the sites of the output's columns with their numbers of heads."""


def span_sites(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> list[Site]:
    """The sites that report, in graph order.

    Args:
        sites: all sites of the model.
    """
    return own_token_sites(model, sites, [site for site in sites if site.id in plan.sites])


def span_refusal(model: onnx.ModelProto, plan: PatchPlan, reporting: Sequence[Site]) -> AtpatchError | None:
    """Why a model cannot report on the span of a plan, as the ATP023 to raise; None where it can.

    Args:
        reporting: of `span_sites`.
    """
    if plan.span is None:
        return None
    if plan.span == "optional" and model.ir_version < OVERRIDABLE_FROM:
        return NOT_ADMITTED(
            f"IR version {model.ir_version} has no optional inputs, so no request could mark a span",
            "make it a required input (--span required)",
        )
    if not reporting:
        return NOT_ADMITTED(
            "the graph does not show at any of the patched sites that columns are the tokens of a request",
            "choose other sites, or patch without --span",
        )
    return None


def add_span(
    model: onnx.ModelProto,
    plan: PatchPlan,
    sites: Sequence[Site],
    replacements: Sequence[Replacement],
    pool: ConstantPool,
) -> tuple[list[Replacement], list[onnx.NodeProto], dict[str, str]]:
    """Declare input and output.

    Args:
        model: with its own nodes.
        sites: of `span_sites`, one at least.
        replacements: of nodes of the main graph.

    Returns:
        all replacements of the main graph, the nodes to append to it, and the fact for the stamp.
    """
    _add_input(model, plan)
    # Where constants are nodes, others of the pool may lie behind what is written here.
    own = pool if model.ir_version >= 4 else ConstantPool(None, "constant/span")
    e = Emitter("span", opset_of(model, ()), own, {}, conditional=plan.gating == "if")
    wiring = Wiring(model.graph.node)
    made = list(replacements)
    shares = []
    for site in sites:
        node = wiring.maker[site.product]
        shares.append(_share(e, site, node, wiring))
        _behind(made, node, e.nodes)
        e.nodes.clear()
    e.op("Concat", *shares, axis=1)
    e.nodes[-1].output[0] = SPAN_ATTENTION
    model.graph.output.append(helper.make_tensor_value_info(SPAN_ATTENTION, TensorProto.FLOAT, [None, None]))
    heads = {site.id: site.heads if site.layout.has_heads else 1 for site in sites}
    return made, e.nodes, {FACT: json.dumps({"input": plan.span, "heads": heads}, separators=(",", ":"))}


def _add_input(model: onnx.ModelProto, plan: PatchPlan) -> None:
    if plan.span == "optional":
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 2), np.int64), SPAN))
    model.graph.input.append(helper.make_tensor_value_info(SPAN, TensorProto.INT64, [None, 2]))


def _behind(made: list[Replacement], node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put nodes right behind a node of the model or what takes its place, so that no map has to be kept for long."""
    at = next((place for place, one in enumerate(made) if one.output in node.output), None)
    if at is not None:
        made[at] = Replacement(made[at].output, (*made[at].nodes, *nodes))
        return
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    made.append(Replacement(next(filter(None, node.output)), (twin, *nodes)))


def _share(e: Emitter, site: Site, node: onnx.NodeProto, wiring: Wiring) -> str:
    """(B, H): the sum of the answer row's weights on the span."""
    row = _answer_row(e, site, node, wiring)
    at = e.unsqueeze(columns_of(e, e.dims(row, 2)), 0)
    begin, end = part(e, SPAN, 1, 0, 1), part(e, SPAN, 1, 1, 2)
    inside = e.op("And", e.op("Not", e.op("Less", at, begin)), e.op("Less", at, end), role="inside")
    weights = e.op("Where", e.unsqueeze(inside, 1), row, e.constant(0.0), role="weights")
    share = e.reduce("Sum", weights, 2, keepdims=False, role="share")
    e.nodes[:] = needed(_apart(e, node), [share])
    return share


def _answer_row(e: Emitter, site: Site, node: onnx.NodeProto, wiring: Wiring) -> str:
    """(B, H, K) float32."""
    known = None
    if site.form in FUSED:
        operands = lower_fused(e, site, node, whole=False)
        if isinstance(operands, Recomputed):
            if operands.emit_answer is not None:
                return e.squeeze(operands.emit_answer(e), 2)
            operands = operands.with_map(e)
        whole = operands.map(e)
        known = operands.valid if isinstance(operands, KnowsColumns) else None
    else:
        site = reading_early(e, site, wiring, [])
        whole = Canonical(site).probabilities(e, site.probabilities)
    valid = None if site.unmasked else valid_columns(e, site, whole, known)
    rows = None if valid is None else answer_rows(e, valid, e.dims(whole, 2, 3), e.dims(whole, 3))
    return e.squeeze(pick_row(e, whole, rows, 2, site.heads), 2)


def _apart(e: Emitter, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What was written, without a second copy of the operator where its own outputs are enough.

    A lowering writes the operator itself too, with outputs under the names of the model's. Here it stays where it is.
    """
    theirs = {name for name in node.output if name}
    read = set().union(*(reads(one) for one in e.nodes))
    kept = []
    for one in e.nodes:
        own = {*one.output} - theirs
        if theirs.isdisjoint(one.output) or own & read:
            one.output[:] = [e.value("unread") if name in theirs else name for name in one.output]
            kept.append(one)
    return kept
