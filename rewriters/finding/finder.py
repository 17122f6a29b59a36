"""The site finder: a `Site` or a `Rejection` for every attention map of a model.

A Softmax, or an equivalent group of operators, is a site when

1. the axis it normalizes is the axis that a product contracts with values computed from the input (P·V), and
2. what it normalizes goes back to a product of two computed factors (Q·Kᵀ; one factor may be a set of learned queries).

Structure decides, never names, so the rule stays valid when exporters change. Both conditions are needed: the first
also holds for the context product of linear attention, the second also for a Softmax over scores that weighs no values.

Every Softmax becomes a site or a rejection. Other operators that make maps (`finding.softmax_match`) are sites by the
same two rules; activations that work element by element must also meet the rules of `finding.unnormalized`. They are
rejected only if they have scores of two computed factors and a product with computed values. All others are ordinary
layers and heads, and are not reported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..model.bodies import walk_bodies
from ..model.boundary import to_ir
from ..sites import Rejection, Site
from ..traces import Traces
from .backward import Scores, find_scores
from .facts import Facts
from .forward import Hit, Outcome, follow_map
from .fused import FusedRead, read_fused
from .products import Ended, Refused
from .site_builder import SiteBuilder, node_name
from .skeleton import skeleton
from .softmax_match import Anchor, read_anchor
from .sweep import gather_facts
from .trace import Finding, Tracer
from .unnormalized import KEY_AXES, key_tokens, weighing
from .view import View, build_view

__all__ = ["REASONS", "Searched", "find_sites", "search", "trace_sites"]

logger = logging.getLogger(__name__)

REASONS: dict[str, str] = {
    "quantized-product": "its map enters a product on integers, whose map and values cannot be recovered as floats",
    "product-form": "its map enters a product of a form that cannot be patched yet",
    "signed-map": (
        "its map is part of a difference with entries below zero, which enters a product of a form that cannot be"
        " patched for it"
    ),
    "mixed-map": "an operator between its map and the values mixes entries, so the columns are no longer its own",
    "shared-product": "its map reaches a product that is already a site of another Softmax",
    "own-values": "its map is multiplied with a function of itself, not with values",
    "unproven-tokens": (
        "its rows are not normalized to sum to one, and the graph does not show that keys and values belong to the"
        " same tokens"
    ),
    "lost-axis": "its map enters a product, but the axis of its columns cannot be followed on the way there",
    "unknown-operator": "its map enters an operator of another domain, about which nothing is known",
    "rank": "the rank of its map is not known, so its axes cannot be identified",
    "flatten": "it normalizes several axes at once",
    "constant-scores": "what it normalizes is a projection with constant weights, not a product of queries and keys",
    "no-scores": "what it normalizes does not come from a product of queries and keys",
    "scores-form": "what it normalizes comes from an operator through which scores cannot be followed yet",
    "constant-values": "its map is multiplied with constants, not with values computed from the input",
    "axis": "the axis it normalizes is not the one that the product contracts",
    "no-product": "its map enters no matrix product with values",
    "output": "its result is only an output of the graph, like that of a class head",
    "unused": "nothing reads its result",
    "fused": "the operator computes attention inside, so its map is not visible yet",
    "token-axis": (
        "the axis that the operator uses for heads counts rows, frames or windows, and each of them has its own tokens"
    ),
    "no-map": (
        "the operator carries a state from token to token instead of weighing columns, so it has no attention map"
    ),
    "unreadable": "the graph around it is malformed and cannot be analyzed",
}
"""Rejection code → what it means; if several apply, the first in this order is reported."""

_NEAR_PRODUCTS = ("quantized-product", "product-form", "signed-map", "mixed-map", "lost-axis")
"""The walk ended at a product with computed values, or shortly before one."""

_PRIORITY = {code: index for index, code in enumerate(REASONS)}


def find_sites(model: onnx.ModelProto) -> tuple[tuple[Site, ...], tuple[Rejection, ...]]:
    """Sites and rejections, each in graph order.

    The main graph, bodies of If/Loop/Scan and local functions are searched. Weights and external data are not read, and
    the model is not changed. A malformed graph gives rejections with the code "unreadable", not an exception.
    """
    searched = search(model)
    if searched is None:
        return (), tuple(_unreadable(model))
    found = [finding.verdict for finding in searched.findings]
    return tuple(v for v in found if isinstance(v, Site)), tuple(v for v in found if isinstance(v, Rejection))


@dataclass(frozen=True)
class Searched:
    """The indexed model, and what was found at every map, in graph order."""

    view: View
    facts: Facts
    findings: Sequence[Finding]


def search(model: onnx.ModelProto) -> Searched | None:
    """What `find_sites` knows, for other questions about the same maps; None for a malformed graph."""
    view = _indexed(model)
    if view is None:
        return None
    found = _Search(view, model)
    return Searched(view, found.facts, found.run())


def trace_sites(model: onnx.ModelProto) -> Traces:
    """The chain of operators of every site and rejection of `find_sites`, in graph order."""
    view = _indexed(model)
    if view is None:
        return Traces.unreadable(_unreadable(model))
    search = _Search(view, model)
    return Tracer(view, search.facts, search.protos, model).trace(search.run())


def _indexed(model: onnx.ModelProto) -> View | None:
    """None for a malformed graph."""
    try:
        return build_view(to_ir(skeleton(model)))
    except ModelError as error:
        logger.debug("the model cannot be indexed: %s", error)
        return None


def _unreadable(model: onnx.ModelProto) -> Iterator[Rejection]:
    for _, body in walk_bodies(model):
        for node in body.node:
            if node.op_type == "Softmax":
                yield Rejection(node_name(node), "unreadable", _sentence(Refused("unreadable", "")))


class _Search:
    def __init__(self, view: View, model: onnx.ModelProto) -> None:
        self._view = view
        self.facts: Facts = gather_facts(view)
        bodies = {where: body.node for where, body in walk_bodies(model)}
        self.protos = {node: bodies[home.where][home.index] for node, home in view.homes.items()}
        self._order = {node: position for position, node in enumerate(view.homes)}
        self._builder = SiteBuilder(view, self.facts, self.protos)
        self._taken: set[ir.Node] = set()
        self._found: list[Finding] = []

    def run(self) -> Sequence[Finding]:
        for node in self._view.homes:
            anchor = read_fused(self._view, self.facts, node) or read_anchor(self._view, self.facts, node)
            if isinstance(anchor, FusedRead):
                self._found.append(Finding(node, self._builder.build_fused(node, anchor), fused=anchor))
            elif isinstance(anchor, Anchor):
                self._judge(anchor)
            elif anchor is not None:
                self._reject(node, [anchor])
        return self._found

    def _judge(self, anchor: Anchor) -> None:
        if anchor.element_wise:
            self._judge_element_wise(anchor)
            return
        outcome = follow_map(self._view, self.facts, anchor)
        refusals: list[Refused] = list(outcome.ends)
        hits = self._qualified(outcome, anchor, refusals)
        scores = find_scores(self._view, self.facts, anchor) if hits else None
        if isinstance(scores, Scores):
            for hit in hits:
                self._taken.add(hit.product.node)
                self._found.append(Finding(anchor.node, self._builder.build(anchor, hit, scores), anchor, hit, scores))
        elif scores is not None and not anchor.tentative:
            self._reject(anchor.node, [scores], anchor, hits[0])
        elif scores is None and (not anchor.tentative or self._looks_like_attention(anchor, refusals)):
            self._reject(anchor.node, refusals or [Ended("unused", "")], anchor)

    def _judge_element_wise(self, anchor: Anchor) -> None:
        """Like `_judge`, for each axis that the keys may be on."""
        scores = find_scores(self._view, self.facts, anchor)
        if not isinstance(scores, Scores) or scores.node in self._taken:
            return
        for axis in KEY_AXES:
            at = replace(anchor, axis=axis)
            keys = key_tokens(self._view, self.facts, at, scores)
            if keys is None:
                continue
            outcome = follow_map(self._view, self.facts, at)
            refusals: list[Refused] = [
                end for end in outcome.ends if end.code in _NEAR_PRODUCTS and not _is_softmax(end.node)
            ]
            judged = [weighing(self._view, self.facts, keys, hit) for hit in self._qualified(outcome, at, [])]
            hits = [hit for hit in judged if isinstance(hit, Hit)]
            refusals += [refused for refused in judged if isinstance(refused, Refused)]
            for hit in hits:
                self._taken.add(hit.product.node)
                self._found.append(Finding(at.node, self._builder.build(at, hit, scores), at, hit, scores))
            if refusals and not hits:
                self._reject(at.node, refusals, at)
            if hits or refusals:
                return

    def _looks_like_attention(self, anchor: Anchor, refusals: Sequence[Refused]) -> bool:
        named = any(refusal.code in _NEAR_PRODUCTS for refusal in refusals)
        return named and isinstance(find_scores(self._view, self.facts, anchor), Scores)

    def _qualified(self, outcome: Outcome, anchor: Anchor, refusals: list[Refused]) -> list[Hit]:
        hits = []
        for hit in outcome.hits:
            if hit.product.node in self._taken:
                refusals.append(
                    Ended("shared-product", node_name(self.protos[hit.product.node]), hit.path, hit.product.node)
                )
            elif self._depends(hit.product.values, anchor):
                refusals.append(Ended("own-values", hit.product.node.op_type, hit.path, hit.product.node))
            else:
                hits.append(hit)
        return hits

    def _depends(self, value: ir.Value, anchor: Anchor) -> bool:
        """Whether values are computed from the map itself; only nodes after the Softmax are searched."""
        first = self._order[anchor.node]
        waiting, seen = [value], {value}
        while waiting:
            node = waiting.pop().producer()
            if node is anchor.node:
                return True
            if node is None or self._order.get(node, -1) < first:
                continue
            new = [source for source in node.inputs if source is not None and source not in seen]
            seen.update(new)
            waiting.extend(new)
        return False

    def _reject(
        self, node: ir.Node, refusals: Sequence[Refused], anchor: Anchor | None = None, hit: Hit | None = None
    ) -> None:
        reported = min(refusals, key=lambda refusal: _PRIORITY[refusal.code])
        rejection = Rejection(node_name(self.protos[node]), reported.code, _sentence(reported))
        self._found.append(Finding(node, rejection, anchor, hit, refusals=tuple(refusals), reported=reported))


def _is_softmax(node: ir.Node | None) -> bool:
    """What enters a Softmax is scores again, not a map."""
    return node is not None and node.op_type in ("LogSoftmax", "Softmax")


def _sentence(refusal: Refused) -> str:
    return REASONS[refusal.code] + (f" ({refusal.detail})" if refusal.detail else "")
