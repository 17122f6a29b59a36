"""Healing in the main graph, or in both branches of a merged decoder (`finding.cache_branches`).

1. A group of detecting sites of the main graph: keys and values are healed there.
2. One group in each branch of a merged decoder: each branch is seen as a model of its own (`healed_branches`).
3. A group in one of the branches only is refused: what comes into the cache through the other one would not be healed.
4. Detecting sites in any other body are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from ..errors import NOT_ADMITTED, AtpatchError
from ..finding.cache_branches import CacheBranch, find_merged
from ..finding.key_value import HealingPlaces
from ..model.bodies import reads
from ..plan import PatchPlan
from ..sites import Site
from .healing import places_of

__all__ = ["HealedBody", "bodies_of", "with_places"]


@dataclass(frozen=True)
class HealedBody:
    """What is healed at once: a model, or a branch that is seen as one.

    Attributes:
        model: the whole model, or the one of the branch.
        plan, sites: of the body, with the ids of the whole model.
        branch: None for the main graph.
        places: where to heal; None before that is known.
    """

    model: onnx.ModelProto
    plan: PatchPlan
    sites: Sequence[Site]
    branch: CacheBranch | None = None
    places: HealingPlaces | None = None


def bodies_of(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> Sequence[HealedBody] | AtpatchError:
    """The bodies of a plan that heals; the ATP023 to raise by rules 3 and 4. The places are not looked for.

    Args:
        sites: all sites of the model.
    """
    detecting = [site for site in sites if any(site.id in group for group in plan.groups)]
    inside = [site for site in detecting if site.where]
    if not inside:
        return [HealedBody(model, plan, sites)]
    merged = find_merged(model, sites)
    branches = () if merged is None else merged.branches
    if not {site.where for site in detecting} <= {branch.where for branch in branches}:
        return NOT_ADMITTED(f"healing: {inside[0].id} is not in the main graph", "patch each branch as its own model")
    bodies = [_body_of(branch, plan) for branch in branches]
    if empty := [body.branch for body in bodies if body.branch is not None and not body.plan.groups]:
        return NOT_ADMITTED(
            f"healing: no site of {empty[0]} detects, so what it writes into the cache would not be repaired",
            "choose sites of both branches of the merged decoder",
        )
    return bodies


def _body_of(branch: CacheBranch, plan: PatchPlan) -> HealedBody:
    own = branch.named(plan, whole=False)
    sites = [replace(site, id=branch.ids[site.id]) for site in branch.sites]
    return HealedBody(branch.model, branch.named(own, whole=True), sites, branch)


def with_places(bodies: Sequence[HealedBody], known: HealingPlaces | None) -> list[HealedBody] | AtpatchError:
    """The bodies with their places; the ATP023 to raise where a graph does not show them.

    Args:
        known: of the main graph, where they are known already.
    """
    found = [_with_places(body, known) for body in bodies]
    refused = [one for one in found if isinstance(one, AtpatchError)]
    return refused[0] if refused else [one for one in found if isinstance(one, HealedBody)]


def _with_places(body: HealedBody, known: HealingPlaces | None) -> HealedBody | AtpatchError:
    if body.branch is None:
        found = places_of(body.model, body.plan, body.sites, known)
        return found if isinstance(found, AtpatchError) else replace(body, places=found)
    found = places_of(body.model, body.branch.named(body.plan, whole=False), body.branch.sites)
    if isinstance(found, AtpatchError):
        return found.fault(f"{body.branch}: {found.what}", found.fix)
    content = {*found.embeddings}
    if any(content & reads(node) or content & {*node.output} for node in body.model.graph.node[: body.branch.ahead]):
        return NOT_ADMITTED("healing: a node in front of both branches computes with the tokens")
    ids = body.branch.ids
    return replace(
        body,
        places=replace(
            found,
            healed=tuple(ids[name] for name in found.healed),
            judged=tuple(ids[name] for name in found.judged),
            hides=None,  # a mask is an input of both branches
        ),
    )
