"""The branches of a merged decoder, each as a model of its own.

A merged decoder (Optimum's `decoder_model_merged.onnx`) is one `If` on an input, `use_cache_branch`: one branch is the
decoder with a past, the other one the decoder without. What they share, the weights, lies in the main graph.

1. The main graph has one `If`, whose condition is an input. Both of its branches have sites.
2. In front of it there may be nodes that convert inputs, such as casts from half precision. Nodes behind it, which
   convert outputs, are no part of a branch.
3. Large weights are only named, since the same numbers would lie in memory three times. `weights=True` keeps them, for
   a branch that is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import GraphProto

from ..errors import NOT_ADMITTED
from ..model.bodies import reads
from ..plan import PatchPlan
from ..sites import Site, Where
from .finder import find_sites
from .skeleton import named_only

__all__ = ["CacheBranch", "MergedDecoder", "find_merged"]

_WITH_PAST, _WITHOUT_PAST = "then_branch", "else_branch"
"""The branch that runs where the condition is true, and the other one."""


@dataclass(frozen=True)
class CacheBranch:
    """One branch.

    Attributes:
        where: in the merged decoder.
        model: the inputs of the merged decoder, the outputs of the branch.
        ahead: so many nodes of `model` lie in front of the `If`.
        sites: of `model`, with the ids that they have where it is a file of its own.
        ids: id of a site in `model` → its id in the merged decoder.
    """

    where: Where
    model: onnx.ModelProto
    ahead: int
    sites: tuple[Site, ...]
    ids: Mapping[str, str]

    @property
    def attribute(self) -> str:
        """Of the `If`, that holds the branch."""
        return self.where[0][1]

    def __str__(self) -> str:
        return f"the branch {'with' if self.attribute == _WITH_PAST else 'without'} a past"

    def named(self, plan: PatchPlan, *, whole: bool) -> PatchPlan:
        """The part of a plan that is about this branch, with other ids of its sites.

        Args:
            whole: the plan has ids of `model` and gets those of the merged decoder; else the other way round.
        """
        ids = self.ids if whole else {there: own for own, there in self.ids.items()}
        groups = (tuple(ids[name] for name in group if name in ids) for group in plan.groups)
        return replace(
            plan,
            sites={ids[name]: one for name, one in plan.sites.items() if name in ids},
            groups=tuple(group for group in groups if group),
        )


@dataclass(frozen=True)
class MergedDecoder:
    """A merged decoder with all of its sites, in graph order."""

    model: onnx.ModelProto
    sites: tuple[Site, ...]
    branches: tuple[CacheBranch, CacheBranch]

    @property
    def prompts(self) -> CacheBranch:
        """The branch that runs on prompts."""
        return next(branch for branch in self.branches if branch.attribute == _WITHOUT_PAST)

    def joined(self, plans: Sequence[PatchPlan]) -> PatchPlan:
        """One plan of a plan for each branch, which has the ids of its model."""
        named = [branch.named(plan, whole=True) for branch, plan in zip(self.branches, plans, strict=True)]
        sites = {name: one for plan in named for name, one in plan.sites.items()}
        return replace(named[0], sites=sites, groups=tuple(group for plan in named for group in plan.groups))

    def spread(self, plan: PatchPlan) -> PatchPlan:
        """A plan for sites of `prompts`, for those of the same ids in both branches, or else at the same places.

        Raises:
            AtpatchError: ATP023 where the branches are too unlike.
        """
        return self.joined([_moved(plan, self.prompts.sites, branch.sites) for branch in self.branches])


def find_merged(model: onnx.ModelProto, sites: Sequence[Site], *, weights: bool = False) -> MergedDecoder | None:
    """The model as a merged decoder; None where it is none.

    Args:
        sites: all sites of the model.
        weights: keep all weights in the models of the branches.
    """
    inputs = {value.name for value in model.graph.input}
    found = [index for index, node in enumerate(model.graph.node) if node.op_type == "If"]
    if len(found) != 1 or model.graph.node[found[0]].input[0] not in inputs:
        return None
    past, none = (_branch(model, found[0], key, sites, weights) for key in (_WITH_PAST, _WITHOUT_PAST))
    return MergedDecoder(model, tuple(sites), (past, none)) if past.sites and none.sites else None


def _branch(model: onnx.ModelProto, index: int, key: str, sites: Sequence[Site], weights: bool) -> CacheBranch:
    where: Where = ((index, key),)
    body = next(one.g for one in model.graph.node[index].attribute if one.name == key)
    names = {site.product: site.id for site in sites if site.where == where}
    alone = _alone(model, index, body, weights)
    own = tuple(site for site in find_sites(alone)[0] if site.product in names) if names else ()
    return CacheBranch(where, alone, index, own, {site.id: names[site.product] for site in own})


def _alone(model: onnx.ModelProto, index: int, body: GraphProto, weights: bool) -> onnx.ModelProto:
    made = onnx.ModelProto(ir_version=model.ir_version)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    graph, main = made.graph, model.graph
    graph.name = body.name or "branch"
    graph.input.extend(main.input)
    graph.output.extend(body.output)
    graph.value_info.extend([*main.value_info, *body.value_info])
    graph.node.extend([*main.node[:index], *body.node])
    read = {name for node in graph.node for name in reads(node)}
    for tensor in (*main.initializer, *body.initializer):
        if tensor.name in read:
            graph.initializer.append(tensor if weights else named_only(tensor))
    graph.sparse_initializer.extend([*main.sparse_initializer, *body.sparse_initializer])
    return made


def _moved(plan: PatchPlan, mine: Sequence[Site], theirs: Sequence[Site]) -> PatchPlan:
    ids = {site.id: site.id for site in theirs}
    if not plan.sites.keys() <= ids.keys():
        if len(mine) != len(theirs):
            raise NOT_ADMITTED(f"the branches of the merged decoder have {len(mine)} and {len(theirs)} attention sites")
        ids = {one.id: other.id for one, other in zip(mine, theirs, strict=True)}
    return replace(
        plan,
        sites={ids[name]: one for name, one in plan.sites.items()},
        groups=tuple(tuple(ids[name] for name in group) for group in plan.groups),
    )
