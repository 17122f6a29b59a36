"""The second run as a model of its own answers flagged requests as the patched graph does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch
from rewriters.editing.second_run import joint_scores, second_run_of
from rewriters.errors import AtpatchError
from rewriters.names import GIVEN_COLUMNS
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic

from ..graphs import attention_block
from ..running import run_all, with_outputs
from .excised import named
from .two_passes import open_export, splitting_threshold, two_pass


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("mend", ["redistribute", "excise"])
def test_it_answers_as_the_second_of_two_passes(family: str, mend: str) -> None:
    export, model, sites = open_export(family, "dynamo")
    model, feeds = named(model), export.feeds(4, padded=True)
    detector = SitePlan(Statistic(exempt=()), BenignPair(np.array([0.5], np.float32)))
    plan = two_pass(sites, family, detector, mend=mend, joint="sum")
    patched = patch(model, plan, sites)
    threshold = np.array(splitting_threshold(patched, feeds), np.float32)
    got = run_all(patched, {**feeds, "atpatch_threshold": threshold})
    flagged, columns = got["atpatch_flagged"].any(1), got[f"atpatch_columns/{sites[0].id}"]
    output = model.graph.output[0].name
    alone = second_run_of(model, plan, sites, output)
    assert isinstance(alone, onnx.ModelProto)
    onnx.checker.check_model(alone)
    hit = {name: array[flagged] for name, array in {**feeds, GIVEN_COLUMNS: columns}.items()}
    answer = run_all(alone, hit)
    assert answer.keys() == {output}
    want = got[output][flagged]
    np.testing.assert_allclose(answer[output], want, atol=2e-5 * np.abs(want).max(), rtol=0)


def test_the_first_run_and_its_detectors_are_not_in_it() -> None:
    _, model, sites = open_export("bert", "dynamo")
    output = model.graph.output[0].name
    plan = two_pass(sites, "bert", SitePlan(Statistic(exempt=())), joint="sum")
    alone, without = second_run_of(model, plan, sites, output), second_run_of(model, plan, sites[:0], output)
    assert isinstance(alone, onnx.ModelProto) and isinstance(without, AtpatchError)
    kinds = [node.op_type for node in alone.graph.node]
    assert "If" not in kinds
    assert kinds.count("Softmax") == [node.op_type for node in model.graph.node].count("Softmax")
    assert [value.name for value in alone.graph.input] == [*(value.name for value in model.graph.input), GIVEN_COLUMNS]
    other = replace(plan, threshold=9.0, sites={name: SitePlan(Statistic(exempt=(1,))) for name in plan.sites})
    same = second_run_of(model, other, sites, output)
    assert isinstance(same, onnx.ModelProto) and [node.op_type for node in same.graph.node] == kinds


def test_an_output_in_front_of_the_site_is_refused() -> None:
    block = attention_block()
    model = onnx.ModelProto()
    model.CopyFrom(block.model)
    model.graph.node.append(onnx.helper.make_node("Identity", ["q"], ["early"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("early", onnx.TensorProto.FLOAT, ["B", None]))
    plan = PatchPlan({block.site.id: SitePlan(Static((1,)))}, passes="two", groups=((block.site.id,),))
    assert isinstance(second_run_of(model, plan, [block.site], "early"), AtpatchError)


def test_joint_scores_are_what_is_compared_with_the_threshold() -> None:
    export, model, sites = open_export("bert", "dynamo")
    plan = two_pass(sites, "bert", SitePlan(Statistic(exempt=())), joint="sum", controls="optional")
    patched, feeds = patch(model, plan, sites), export.feeds(4, padded=True)
    compared, summed = joint_scores(patched)
    assert compared == summed  # no probabilities
    threshold = np.float32(splitting_threshold(patched, feeds))
    got = run_all(with_outputs(patched, [compared]), {**feeds, "atpatch_threshold": np.array(threshold)})
    np.testing.assert_array_equal(got[compared] > threshold, got[f"atpatch_columns/{sites[0].id}"])
    np.testing.assert_array_equal(np.isneginf(got[summed]), feeds["attention_mask"] == 0)
