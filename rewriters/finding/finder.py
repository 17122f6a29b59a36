"""The site finder: a `Site` or a `Rejection` for every attention map of a model.

A Softmax, or what comes to the same, is a site when

1. the axis it normalises is the axis that a product contracts with values computed from the input (P·V), and
2. what it normalises goes back to a product of two computed factors (Q·Kᵀ; one factor may be a set of learned queries).

Structure decides, never names, so the rule outlives changes of exporters. Both halves are needed: the first alone would
take the context product of linear attention, the second alone a softmax over scores that weighs nothing.

Every Softmax gets an answer. Other operators that make maps (`finding.anchors`) are sites by the same two rules; what
works number by number has to meet those of `finding.unnormalised` too. They are rejected only where scores of two
computed factors and a product with computed values are seen: all others are layers and heads, of which there is nothing
to say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
from .unnormalised import KEY_AXES, key_tokens, weighing
from .view import View, build_view

__all__ = ["REASONS", "find_sites", "trace_sites"]

logger = logging.getLogger(__name__)

REASONS: dict[str, str] = {
    "quantized-product": "its map enters a product on integers, from which map and values cannot be had as floats",
    "product-form": "its map enters a product of a form that cannot be patched yet",
    "signed-map": (
        "what weighs the values is a difference of maps with entries below zero, in a product that cannot be taken"
        " apart for it"
    ),
    "mixed-map": (
        "an operator on the way to the values makes another map of its map, whose columns are no longer its own"
    ),
    "shared-product": "its map reaches a product that is a site of another Softmax already",
    "own-values": "its map is multiplied with a function of itself, not with values",
    "unproven-tokens": (
        "its rows are not made to sum to one, and it is not shown that keys and values are of the same tokens"
    ),
    "lost-axis": "its map enters a product, but on the way to it the axis of its columns cannot be followed",
    "unknown-operator": "its map enters an operator of another domain, of which nothing is known",
    "rank": "the rank of its map is not known, so its axes cannot be told apart",
    "flatten": "it normalises several axes at once",
    "constant-scores": "what it normalises is a projection with constant weights, not a product of queries and keys",
    "no-scores": "what it normalises does not come from a product of queries and keys",
    "scores-form": "what it normalises comes out of an operator through which scores cannot be followed yet",
    "constant-values": "its map is multiplied with constants, not with values computed from the input",
    "axis": "the axis it normalises is not the one that a product contracts",
    "no-product": "its map enters no matrix product with values",
    "output": "its result only leaves the graph, as a class head's does",
    "unused": "nothing reads its result",
    "fused": "the operator computes attention inside, so there is no visible map yet",
    "token-axis": (
        "the axis that the operator takes for heads counts rows, frames or windows, each of which has tokens of its own"
    ),
    "no-map": (
        "the operator carries a state from token to token instead of weighing columns, so it has no attention map"
    ),
    "unreadable": "the graph around it is malformed and cannot be analysed",
}
"""Rejection code → what it means, the most telling first: of several reasons that apply, the one nearest the top is
given.
"""

_NEAR_PRODUCTS = ("quantized-product", "product-form", "signed-map", "mixed-map", "lost-axis")
"""Ends at, or in sight of, a product with computed values."""

_PRIORITY = {code: index for index, code in enumerate(REASONS)}


def find_sites(model: onnx.ModelProto) -> tuple[tuple[Site, ...], tuple[Rejection, ...]]:
    """Sites and rejections, each in graph order.

    Main graph, bodies of If/Loop/Scan and local functions are searched. Weights are not looked at, external data is not
    read, and the model is not changed. A malformed graph gives rejections with the code "unreadable", not an exception.
    """
    try:
        read = to_ir(skeleton(model))
    except ModelError as error:
        logger.debug("the model cannot be indexed: %s", error)
        return (), tuple(_unreadable(model))
    search = _Search(build_view(read), model)
    found = [finding.verdict for finding in search.run()]
    return tuple(v for v in found if isinstance(v, Site)), tuple(v for v in found if isinstance(v, Rejection))


def trace_sites(model: onnx.ModelProto) -> Traces:
    """What `find_sites` saw: for every site and rejection the chain of operators, in graph order; the same search, the
    same answers.
    """
    try:
        view = build_view(to_ir(skeleton(model)))
    except ModelError as error:
        logger.debug("the model cannot be indexed: %s", error)
        return Traces.unreadable(_unreadable(model))
    search = _Search(view, model)
    return Tracer(view, search.facts, search.protos, model).trace(search.run())


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
        if anchor.free:
            self._judge_free(anchor)
            return
        outcome = follow_map(self._view, self.facts, anchor)
        refusals: list[Refused] = list(outcome.ends)
        hits = self._qualified(outcome, anchor, refusals)
        scores = find_scores(self._view, self.facts, anchor) if hits else None
        if isinstance(scores, Scores):
            for hit in hits:
                self._taken.add(hit.product.node)
                self._found.append(Finding(anchor.node, self._builder.build(anchor, hit, scores), anchor, hit, scores))
        elif scores is not None and not anchor.quiet:
            self._reject(anchor.node, [scores], anchor, hits[0])
        elif scores is None and (not anchor.quiet or self._looks_like_attention(anchor, refusals)):
            self._reject(anchor.node, refusals or [Ended("unused", "")], anchor)

    def _judge_free(self, anchor: Anchor) -> None:
        """As above, for each axis that the keys may be on."""
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
        """Whether values are computed from the map itself.

        Only nodes after the Softmax can, which keeps the search short.
        """
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
        telling = min(refusals, key=lambda refusal: _PRIORITY[refusal.code])
        rejection = Rejection(node_name(self.protos[node]), telling.code, _sentence(telling))
        self._found.append(Finding(node, rejection, anchor, hit, refusals=tuple(refusals), telling=telling))


def _is_softmax(node: ir.Node | None) -> bool:
    """What enters one is scores, whatever was done to them."""
    return node is not None and node.op_type in ("LogSoftmax", "Softmax")


def _sentence(refusal: Refused) -> str:
    return REASONS[refusal.code] + (f" ({refusal.detail})" if refusal.detail else "")
