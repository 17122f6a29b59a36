"""Explains why a Softmax is a site or not: the trace of the finder, and what a patch would insert there.

This module makes the words for the pictures. It draws nothing.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from rewriters.api import trace_sites
from rewriters.editing.patcher import patch, refusal
from rewriters.model.bodies import walk_bodies
from rewriters.model.forms import Model, read
from rewriters.names import branch_of_gate, owner_of
from rewriters.plan import PatchPlan, SitePlan
from rewriters.sites import Site, Where
from rewriters.traces import Edge, End, Trace

from ..errors import UNKNOWN_SITE
from ..hotfix.plans import UNTRAINED
from .inspector import original_of

__all__ = [
    "Explanation",
    "Explanations",
    "Insertion",
    "edge_text",
    "end_text",
    "explain",
    "explain_model",
    "explain_site",
    "facts_of",
]

_SUGGESTIONS = 4


@dataclass(frozen=True)
class Insertion:
    """Numbers of nodes that a patch with the training-free detector inserts at one site.

    Attributes:
        outside: nodes outside the two branches of the gate: the detector, the gate itself and all others.
        flagged, unflagged: nodes inside the branch that runs if a column is flagged, and inside the other one.
        refused: why the site cannot be patched, "" if it can.
    """

    outside: int = 0
    flagged: int = 0
    unflagged: int = 0
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        counts = {key: getattr(self, key) for key in ("outside", "flagged", "unflagged")}
        return {"detector": "statistic", **counts} if not self.refused else {"refused": self.refused}


@dataclass(frozen=True)
class Explanation:
    """Why one Softmax is a site or not.

    Attributes:
        trace: the operators that the finder followed, and where it stopped.
        insertion: numbers of nodes that a patch would insert. None if the Softmax was rejected.
    """

    trace: Trace
    insertion: Insertion | None

    def to_json(self) -> dict[str, Any]:
        """The keys that `inspect --explain NAME --json` promises."""
        return {**self.trace.to_json(), "patch": None if self.insertion is None else self.insertion.to_json()}


@dataclass(frozen=True)
class Explanations:
    """Explanations of all Softmax nodes of a model, in graph order, and the module path of every node in execution
    order.
    """

    found: tuple[Explanation, ...]
    scopes: tuple[str, ...] = field(repr=False)


def explain_model(model: Model) -> Explanations:
    """Explain every site and every rejected Softmax of a model. If the model is patched, its original is explained.

    Raises:
        AtpatchError: as `inspect`.
    """
    proto = original_of(read(model))
    traces = trace_sites(proto)
    insertions = _insertions(proto, [trace.site for trace in traces.traces if trace.site is not None])
    found = (Explanation(trace, None if trace.site is None else insertions[trace.site.id]) for trace in traces.traces)
    return Explanations(tuple(found), traces.scopes)


def explain(model: Model, name: str) -> Explanation:
    """Explain, operator by operator, why one Softmax is a site or not, and what a patch would insert there.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`.
        name: site id, name of the Softmax or P·V node, or name of one of their outputs.

    Returns:
        the trace of the finder, and the number of nodes that a patch inserts (None if the Softmax is not a site).

    Raises:
        AtpatchError: ATP058 if nothing has this name, and those of `inspect`.
    """
    proto = original_of(read(model))
    traces = trace_sites(proto).traces
    matching = sorted((trace for trace in traces if trace.answers_to(name)), key=lambda trace: trace.name != name)
    if not matching:
        known = [trace.name for trace in traces]
        close = difflib.get_close_matches(name, known, _SUGGESTIONS, 0.4) or known[:_SUGGESTIONS]
        raise UNKNOWN_SITE(
            f"there is no site or Softmax {name!r}"
            + (f"; the model has {', '.join(close)}" if close else "; it has none")
        )
    trace = matching[0]
    return Explanation(trace, None if trace.site is None else _insertions(proto, [trace.site])[trace.site.id])


# Former name, from before functions were named like the commands.
explain_site = explain


def edge_text(edge: Edge) -> str:
    """Element type and shape: "float (batch, 4, sequence, 8)"."""
    kind = "" if edge.dtype is None else onnx.TensorProto.DataType.Name(edge.dtype).lower() + " "
    dims = "…" if edge.shape is None else ", ".join("?" if dim is None else str(dim) for dim in edge.shape)
    return f"{kind}({dims})"


def end_text(end: End, output: str) -> str:
    """What stopped the search that began at a rejected Softmax. `output` is the output of the Softmax."""
    if end.code == "output":
        return f"leaves the graph as {end.steps[-1].output.name if end.steps else output}"
    return "nothing reads it" if end.code == "unused" else "" if end.detail == end.op_type else end.detail


def facts_of(explanation: Explanation) -> list[tuple[str, str]]:
    """Facts about a site as names and values, for the list next to its picture."""
    trace, insertion, site = explanation.trace, explanation.insertion, explanation.trace.site
    if site is None or insertion is None:
        why = "" if trace.rejection is None else trace.rejection.reason
        axis = "not read" if trace.axis is None else str(trace.axis)
        return [
            ("why", why),
            ("operator", trace.op_type),
            ("normalized axis", axis),
            ("in", trace.body or "main graph"),
        ]
    heads = "not known" if site.heads is None else str(site.heads)
    facts = [
        ("form", site.form),
        ("in", trace.body or "main graph"),
        ("heads", heads + (f", width {site.head_dim}" if site.head_dim else "")),
        (
            "map",
            (
                f"query rows on axis {site.query_axis}, key columns on axis {site.key_axis}, operand {site.operand} of"
                " the product"
            ),
        ),
        (
            "attention",
            (
                "queries and keys are the same tokens"
                if site.self_attention
                else "queries and keys are not shown to be the same tokens"
            ),
        ),
        ("key mask", site.key_mask or "none found; masked columns are read off the map"),
        ("confidence", site.confidence),
        ("detector reads", site.probabilities or (trace.lowered.map if trace.lowered else "")),
    ]
    return [*facts, ("patch", _patch_text(insertion, site))]


def _patch_text(insertion: Insertion, site: Site) -> str:
    if insertion.refused:
        return f"refused, {insertion.refused}"
    place = f"behind {site.matmul} and its Q/DQ pair" if site.quantizer else f"in place of {site.matmul}"
    return (
        f"{place}: {insertion.outside} nodes with the training-free detector; {insertion.flagged} more run where a"
        f" column is flagged, else {insertion.unflagged}"
    )


def _insertions(model: onnx.ModelProto, sites: Sequence[Site]) -> dict[str, Insertion]:
    """Insertions by site id. All sites are patched at once. Only if that is refused, each site is patched by itself, to
    find the one that is refused.
    """
    if not sites:
        return {}
    plan = PatchPlan({site.id: SitePlan(UNTRAINED) for site in sites})
    if (reason := refusal(model, plan, sites)) is None:
        return _count(patch(model, plan, sites), sites)
    if len(sites) > 1:
        return {site.id: _insertions(model, [site])[site.id] for site in sites}
    return {sites[0].id: Insertion(refused=f"{reason.code}: {reason.what}")}


def _count(patched: onnx.ModelProto, sites: Sequence[Site]) -> dict[str, Insertion]:
    counts = {site.id: Counter[str]() for site in sites}
    places: dict[Where, str] = {}
    for where, body in walk_bodies(patched):
        branch = branch_of_gate(body.name) if isinstance(body, onnx.GraphProto) else None
        inherited = places.get(where[:-1], "outside") if where else "outside"
        places[where] = inherited if branch is None else "flagged" if branch == "then" else "unflagged"
        for node in body.node:
            owner = next(filter(None, map(owner_of, (node.name, *node.output))), "")
            if owner in counts:
                counts[owner][places[where]] += 1
    return {name: Insertion(found["outside"], found["flagged"], found["unflagged"]) for name, found in counts.items()}
