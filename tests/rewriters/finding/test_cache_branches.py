"""Each branch of a merged decoder is read as the file that it was merged of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rewriters.errors import AtpatchError
from rewriters.finding.cache_branches import MergedDecoder, find_merged
from rewriters.finding.finder import find_sites
from rewriters.plan import PatchPlan, SitePlan, Static
from tests.exports import export_model
from tests.merged import merged_of

from ..decoders import LAYERS, decoder, merged_decoder


def merged(model: onnx.ModelProto, **options: bool) -> MergedDecoder:
    found = find_merged(model, find_sites(model)[0], **options)
    assert found is not None
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sites_of_a_branch_are_those_of_its_own_file(family: str) -> None:
    found = merged(merged_of(decoder(False, family), decoder(True, family)))
    for branch, with_past in zip(found.branches, (True, False), strict=True):
        alone = find_sites(decoder(with_past, family))[0]
        assert [(site.id, site.fingerprint) for site in branch.sites] == [(one.id, one.fingerprint) for one in alone]
        assert all(site.where == () for site in branch.sites)
        whole = {site.id: site for site in found.sites}
        assert all(whole[branch.ids[site.id]].product == site.product for site in branch.sites)
    assert len({name for branch in found.branches for name in branch.ids.values()}) == 2 * LAYERS
    assert found.prompts is found.branches[1] and str(found.prompts) == "the branch without a past"


def test_weights_are_only_named_unless_they_are_wanted() -> None:
    model = merged_decoder()
    sizes = [sum(one.model.ByteSize() for one in merged(model, weights=kept).branches) for kept in (False, True)]
    weights = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    assert sizes[1] - sizes[0] > 1.5 * weights
    light, whole = (merged(model, weights=kept).prompts.model.graph.initializer for kept in (False, True))
    assert [tensor.name for tensor in light] == [tensor.name for tensor in whole]


def switched(branches: int, condition: str = "go") -> onnx.ModelProto:
    """Attention in so many branches of an If."""
    body = decoder(False)
    nodes, result = list(body.graph.node), body.graph.output[0]
    attends = helper.make_graph(nodes, "attends", [], [result])
    zeros = numpy_helper.from_array(np.zeros((1, 1, 1), np.float32))
    empty = helper.make_graph([helper.make_node("Constant", [], [result.name], value=zeros)], "empty", [], [result])
    node = helper.make_node(
        "If", [condition], ["result"], then_branch=attends, else_branch=attends if branches == 2 else empty
    )
    negated = [helper.make_node("Not", ["go"], ["stop"])] if condition == "stop" else []
    graph = helper.make_graph(
        [*negated, node],
        "switched",
        [*body.graph.input, helper.make_tensor_value_info("go", TensorProto.BOOL, [1])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        list(body.graph.initializer),
    )
    return helper.make_model(graph, opset_imports=list(body.opset_import), ir_version=8)


@pytest.mark.parametrize(
    ("model", "is_one"),
    [
        (lambda: switched(2), True),
        (lambda: switched(1), False),
        (lambda: switched(2, "stop"), False),
        (lambda: decoder(True), False),
        (lambda: onnx.load(export_model("vit", "torchscript").path), False),
    ],
    ids=["two branches", "attention in one branch", "condition that is computed", "decoder", "encoder"],
)
def test_what_a_merged_decoder_is(model, is_one: bool) -> None:
    graph = model()
    assert (find_merged(graph, find_sites(graph)[0]) is not None) is is_one


def test_a_plan_for_prompts_is_spread_over_both_branches() -> None:
    found = merged(merged_decoder())
    first = found.prompts.sites[0].id
    plan = found.spread(plan_for(first))
    assert list(plan.sites) == [branch.ids[first] for branch in found.branches]
    assert plan.groups == tuple((branch.ids[first],) for branch in found.branches)


def with_other_names() -> MergedDecoder:
    later = onnx.ModelProto()
    later.CopyFrom(decoder(True))
    for node in later.graph.node:
        node.name = node.name.replace("transformer", "later")
    return merged(merged_of(decoder(False), later))


def plan_for(name: str) -> PatchPlan:
    return PatchPlan({name: SitePlan(Static((3,)))}, groups=((name,),))


def test_sites_with_other_names_are_paired_by_their_places() -> None:
    found = with_other_names()
    last = found.prompts.sites[-1].id
    assert last not in found.branches[0].ids
    assert list(found.spread(plan_for(last)).sites) == [one.ids[one.sites[-1].id] for one in found.branches]


def test_branches_of_different_depth_share_no_plan() -> None:
    found = with_other_names()
    later, prompts = found.branches
    fewer = replace(found, branches=(replace(later, sites=later.sites[:1]), prompts))
    with pytest.raises(AtpatchError, match="2 and 1 attention sites") as refused:
        fewer.spread(plan_for(prompts.sites[-1].id))
    assert refused.value.code == "ATP023"
