"""What sites of a group flag together: the columns of any site, or those where the sum of their scores is high."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..detector_kinds import ids_read
from ..emit import Emitter
from ..plan import Detector, PatchPlan
from ..sites import Site
from ..subgraphs.detectors import gives_logits
from ..subgraphs.equal_tokens import equal_tokens, of_equal_tokens, repeated_tokens
from ..subgraphs.site import SitePatch, with_companions
from .controls import body_controls
from .wider_run import wider_columns

__all__ = ["Joined", "join"]


@dataclass(frozen=True)
class Joined:
    """Sites of one group, and their joined mask (B, K).

    wider: (B, K) bool, the columns of a second try (see `wider_run`); None without one.
    """

    sites: Sequence[Site]
    columns: str
    wider: str | None = None


def join(e: Emitter, plan: PatchPlan, members: Sequence[tuple[Site, SitePatch]]) -> Joined:
    """The joined mask of one group, as `plan.joint` says."""
    return (_sum_up if plan.joint == "sum" else _any_of)(e, plan, members)


def _any_of(e: Emitter, plan: PatchPlan, members: Sequence[tuple[Site, SitePatch]]) -> Joined:
    columns = members[0][1].columns
    for _, patch in members[1:]:
        columns = e.op("Or", columns, patch.columns)
    companions = [patch.companions for _, patch in members if patch.companions is not None]
    if companions:
        lower = companions[0]
        for other in companions[1:]:
            lower = e.op("Or", lower, other)
        columns = with_companions(e, columns, lower)
    return Joined([site for site, _ in members], columns)


def _sum_up(e: Emitter, plan: PatchPlan, members: Sequence[tuple[Site, SitePatch]]) -> Joined:
    scores = [patch.score for _, patch in members if patch.score is not None]
    controls = body_controls(e, plan)
    total = scores[0] if len(scores) == 1 else e.op("Sum", *scores, role="evidence")
    tokens = _ids([plan.sites[site.id].detector for site, _ in members])
    if tokens is not None:
        total = of_equal_tokens(e, total, tokens)
    seen = [patch.seen for _, patch in members if patch.seen is not None]
    if len(seen) == len(scores):
        anywhere = seen[0]
        for other in seen[1:]:
            anywhere = e.op("Or", anywhere, other)
        total = e.op("Where", anywhere, total, e.constant(-np.inf), role="seen_evidence")
    if any(gives_logits(plan.sites[site.id].detector) for site, _ in members):
        total = e.op("Sigmoid", total, role="score")
    over = e.op("Greater", total, controls.threshold)
    columns = e.op("And", over, controls.enabled, role="joined_columns")
    if plan.companion != 1.0:
        lower = e.op("Greater", total, e.op("Mul", controls.threshold, e.constant(plan.companion)))
        columns = with_companions(e, columns, e.op("And", lower, controls.enabled))
    if plan.most:
        columns = e.op("And", columns, _highest(e, total, plan.most, tokens), role="top_columns")
    wider = None
    if plan.wider:
        wider = wider_columns(e, columns, _highest(e, total, plan.wider, tokens), total)
    return Joined([site for site, _ in members], columns, wider)


def _ids(detectors: Iterable[Detector]) -> str | None:
    """The graph input by which columns of equal tokens count as one."""
    return next(filter(None, (ids_read(one) for one in detectors)), None)


def _highest(e: Emitter, scores: str, most: int, tokens: str | None) -> str:
    """(B, K) bool: of each sample the `most` columns with the highest scores, or all where there are fewer; with ids of
    tokens so many tokens, each with all its columns.

    Places and no comparison of scores, so that equal scores do not let more columns through. Padding scores -inf.
    """
    if tokens is not None:
        scores = e.op("Where", repeated_tokens(e, tokens), e.constant(-np.inf), scores)
    size = e.dims(scores, 1, 2)
    _, places = e.top(scores, e.at_most(size, most), 1, "top_scores", "top_places")
    hits = e.op("OneHot", places, size, e.constant([0.0, 1.0]), axis=-1)
    if tokens is not None:
        hits = e.op("MatMul", hits, e.number(equal_tokens(e, tokens)))
    return e.op("Greater", e.peak(hits, 1, keepdims=False), e.constant(0.5), role="highest")
