"""Two passes: a flagged sample gets what a one-pass patch with its joined columns at every site gives; others stay
bit-identical.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from scipy import special

from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import DataSet
from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.plan import BenignPair, Cnn, Conv, Dense, PatchPlan, Profile, SitePlan, Static, Statistic
from tests import oracle
from tests.exports import EXPORTERS

from ..graphs import attention_block
from ..running import run_all
from .two_passes import groups_of, open_export, splitting_threshold, two_pass

FAMILIES = ("bert", "vit", "gpt2", "t5", "deberta-v2", "whisper", "llama")


def fuses_alike(family: str, exporter: str) -> bool:
    """Whether onnxruntime fuses both graphs alike.

    Whisper's encoder output is read by its decoder too. As an output of the graph it stops onnxruntime from fusing
    across it, as a value beside the gate it does not: there the two are bit-identical only where nothing is fused.
    """
    return (family, exporter) != ("whisper", "torchscript")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_flagged_samples_get_all_their_columns_at_every_site(family: str, exporter: str) -> None:
    export, model, sites = open_export(family, exporter)
    pair = BenignPair(np.array([0.5], np.float32))
    plan = two_pass(sites, family, SitePlan(Statistic(exempt=()), pair))
    patched, feeds = patch(model, plan, sites), export.feeds(4, padded=True)
    threshold = splitting_threshold(patched, feeds)
    optimize = fuses_alike(family, exporter)
    got = run_all(patched, {**feeds, "atpatch_threshold": np.array(threshold, np.float32)}, optimize=optimize)
    before = run_all(model, feeds, optimize=optimize)
    flagged = got["atpatch_flagged"].any(1)
    for sample, hit in enumerate(flagged):
        if hit:
            per_site = {}
            for group in plan.groups:
                joined = np.any([got[f"atpatch_columns/{name}"][sample] for name in group], 0)
                per_site |= {name: SitePlan(Static(tuple(np.flatnonzero(joined).tolist())), pair) for name in group}
            alone = {name: array[sample : sample + 1] for name, array in feeds.items()}
            want = run_all(patch(model, PatchPlan(per_site), sites), alone)
        for name, original in before.items():
            if hit:
                np.testing.assert_allclose(got[name][sample], want[name][0], atol=2e-5 * np.abs(original).max(), rtol=0)
                assert np.abs(got[name][sample] - original[sample]).max() > 1e-3 or name.startswith("encoder")
            else:
                assert got[name][sample].tobytes() == original[sample].tobytes()


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_silence_is_bit_identical_and_undone_exactly(family: str, exporter: str) -> None:
    export, model, sites = open_export(family, exporter)
    patched = patch(model, two_pass(sites, family, SitePlan(Static())), sites)
    onnx.checker.check_model(patched)
    optimize = fuses_alike(family, exporter)
    for padded in (False, True):
        before, after = (run_all(graph, export.feeds(3, padded), optimize=optimize) for graph in (model, patched))
        assert all(array.tobytes() == after[name].tobytes() for name, array in before.items())
    assert unpatch(patched) == model
    firing = patch(model, two_pass(sites, family, SitePlan(Static((1,)))), sites)
    feeds = {**export.feeds(3), "atpatch_enabled": np.array(False)}
    before, off = run_all(model, export.feeds(3), optimize=optimize), run_all(firing, feeds, optimize=optimize)
    assert all(array.tobytes() == off[name].tobytes() for name, array in before.items())
    assert unpatch(firing) == model


def test_weights_are_shared_not_copied() -> None:
    _, model, sites = open_export("bert", "dynamo")
    two = patch(model, two_pass(sites, "bert", SitePlan(Static((1,)))), sites)
    one = patch(model, PatchPlan({site.id: SitePlan(Static((1,))) for site in sites}), sites)
    weights = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    assert sum(tensor.ByteSize() for tensor in two.graph.initializer) < weights + 10_000
    assert len(two.graph.initializer) <= len(one.graph.initializer) + 20


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_swin_keeps_its_one_pass_patch_where_sites_are_not_joined(exporter: str) -> None:
    export, model, sites = open_export("swin", exporter)
    plans = {site.id: SitePlan(Static((1,))) for site in sites}
    apart = run_all(patch(model, PatchPlan(plans), sites), export.feeds(2))
    # Nothing is joined but one site, which detects nothing: the others must act as in one pass.
    plans[sites[-1].id] = SitePlan(Static())
    joined = patch(model, PatchPlan(plans, passes="two", groups=((sites[-1].id,),)), sites)
    plans_without = {name: plan for name, plan in plans.items() if name != sites[-1].id}
    want = run_all(patch(model, PatchPlan(plans_without), sites), export.feeds(2))
    got = run_all(joined, export.feeds(2))
    assert all(got[name].tobytes() == array.tobytes() for name, array in want.items())
    assert any(not np.array_equal(got[name], array) for name, array in apart.items())


def classifier(model: onnx.ModelProto) -> onnx.ModelProto:
    """The block of `attention_block` with class scores (B, H·D) from its first query row."""
    model.graph.node.extend(
        [
            onnx.helper.make_node("Gather", ["out", "first"], ["row"], axis=2),
            onnx.helper.make_node("Flatten", ["row"], ["logits"], axis=1),
        ]
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "first"))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["B", "C"]))
    return model


def test_accept_flip_changes_only_rows_whose_prediction_changes() -> None:
    block = attention_block()
    model = classifier(block.model)
    rng = np.random.default_rng(4)
    feeds = {name: rng.normal(size=(16, 2, 6 if name == "q" else 7, 4)).astype(np.float32) for name in "qkv"}
    feeds["bias"] = np.zeros((16, 1, 6, 7), np.float32)
    options = {"passes": "two", "groups": ((block.site.id,),)}
    plans = {block.site.id: SitePlan(Static((2, 3)))}
    always = run_all(patch(model, PatchPlan(plans, **options), [block.site]), feeds)["logits"]  # type: ignore[arg-type]
    flip = run_all(patch(model, PatchPlan(plans, accept="flip", **options), [block.site]), feeds)["logits"]  # type: ignore[arg-type]
    before = run_all(model, feeds)["logits"]
    flipped = before.argmax(1) != always.argmax(1)
    assert 0 < flipped.sum() < 16
    assert flip[flipped].tobytes() == always[flipped].tobytes()
    assert flip[~flipped].tobytes() == before[~flipped].tobytes()


def test_flip_needs_class_scores() -> None:
    block = attention_block()
    plan = PatchPlan({block.site.id: SitePlan(Static())}, passes="two", groups=((block.site.id,),), accept="flip")
    with pytest.raises(AtpatchError) as caught:
        patch(block.model, plan, [block.site])
    assert caught.value.code == "ATP023"


def test_two_passes_need_a_group() -> None:
    block = attention_block()
    with pytest.raises(AtpatchError) as caught:
        patch(block.model, PatchPlan({block.site.id: SitePlan(Static())}, passes="two"), [block.site])
    assert caught.value.code == "ATP024"


def test_samples_on_another_axis_are_refused() -> None:
    block = attention_block()
    model = classifier(block.model)
    model.graph.input.append(onnx.helper.make_tensor_value_info("past", onnx.TensorProto.FLOAT, [2, "B", "K"]))
    plan = PatchPlan({block.site.id: SitePlan(Static())}, passes="two", groups=((block.site.id,),))
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan, [block.site])
    assert caught.value.code == "ATP023"


def test_nodes_out_of_order_are_refused() -> None:
    block = attention_block()
    nodes = list(block.model.graph.node)[::-1]
    del block.model.graph.node[:]
    block.model.graph.node.extend(nodes)
    plan = PatchPlan({block.site.id: SitePlan(Static())}, passes="two", groups=((block.site.id,),))
    with pytest.raises(AtpatchError) as caught:
        patch(block.model, plan, [block.site])
    assert caught.value.code == "ATP023"


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_sites_that_add_up_their_scores_flag_what_the_sum_is_above(family: str) -> None:
    export, model, sites = open_export(family, "dynamo")
    feeds = export.feeds(4)
    data = DataSet(feeds)
    ((_, batches),) = Capture(model, export.path.parent, sites, data, None, 1).batches(data, np.arange(4))
    total = np.sum(
        [oracle.statistic(batches[site.id].map, None, Statistic(exempt=()), site.self_attention) for site in sites], 0
    )
    threshold = float(np.sort(total.ravel())[-6:-4].mean())
    summed = patch(
        model, two_pass(sites, family, SitePlan(Statistic(exempt=())), joint="sum", threshold=threshold), sites
    )
    got = run_all(summed, feeds)
    for site in sites:
        np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], total > threshold)
    off = run_all(summed, {**feeds, "atpatch_enabled": np.array(False)})
    assert not off["atpatch_flagged"].any()
    assert unpatch(summed) == model


@pytest.mark.parametrize(("family", "kind"), [("bert", "profile"), ("vit", "profile"), ("vit", "cnn")])
def test_sites_whose_scores_are_probabilities_add_up_logits_before_the_sigmoid(family: str, kind: str) -> None:
    export, model, sites = open_export(family, "dynamo")
    feeds = export.feeds(4)
    ((_, batches),) = Capture(model, export.path.parent, sites, DataSet(feeds), None, 1).batches(
        DataSet(feeds), np.arange(4)
    )
    random = np.random.default_rng(0)
    maps = {site.id: batches[site.id].map for site in sites}
    if kind == "cnn":
        plans = {name: SitePlan(random_cnn(random, *seen.shape[2:])) for name, seen in maps.items()}
        scores = [oracle.cnn(maps[name], plan.detector) for name, plan in plans.items()]
    else:
        plans = {name: SitePlan(random_profile(random, 2 * seen.shape[1])) for name, seen in maps.items()}
        scores = [oracle.profile(maps[site.id], None, plans[site.id].detector, site.self_attention) for site in sites]
    total = special.expit(np.sum([special.logit(score) for score in scores], 0))
    threshold = float(np.sort(total.ravel())[-6:-4].mean())
    plan = PatchPlan(plans, threshold, passes="two", groups=groups_of(family, sites), joint="sum", telemetry=True)
    got = run_all(patch(model, plan, sites), feeds)
    for site in sites:
        np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], total > threshold)
    mixed = {**plans, sites[0].id: SitePlan(Statistic())}
    with pytest.raises(AtpatchError) as error:
        patch(model, replace(plan, sites=mixed), sites)
    assert error.value.code == "ATP024"


def random_profile(random: np.random.Generator, features: int) -> Profile:
    def floats(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    return Profile(
        (Dense(floats(features, 3), floats(3)), Dense(floats(3, 1), floats(1))),
        floats(features),
        np.ones(features, np.float32),
    )


def random_cnn(random: np.random.Generator, queries: int, keys: int) -> Cnn:
    def floats(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    halved = -(-queries // 2) * -(-keys // 2)
    layers = Dense(floats(2 * halved, 3) / 9, floats(3)), Dense(floats(3, keys) / 9, floats(keys))
    return Cnn((Conv(floats(2, 1, 3, 3), floats(2), stride=2, padding=1),), layers)


def test_a_silent_site_has_no_say_in_a_sum() -> None:
    _, model, sites = open_export("bert", "dynamo")
    plan = two_pass(sites, "bert", SitePlan(Static()), joint="sum")
    with pytest.raises(AtpatchError) as error:
        patch(model, plan, sites)
    assert error.value.code == "ATP024"
