"""The alarm against an oracle in numpy, which takes the states from the original graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from rewriters.editing.alarm import pooled_states
from rewriters.editing.patcher import patch, stamp, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.finding.hidden_states import hidden_states
from rewriters.model.io import load
from rewriters.names import ALARM, ALARM_SCORE, is_telemetry
from rewriters.plan import Alarm, AlarmLayer, PatchPlan, SitePlan, Static, Statistic
from rewriters.sites import Site, alarm_in_words
from tests.exports import export_model
from tests.tiny import attention_model

from ..graphs import run
from .two_passes import open_export, splitting_threshold, two_pass


def alarm_for(model: onnx.ModelProto, bias: float = 0.1) -> Alarm:
    """An alarm that reads all states."""
    rng = np.random.default_rng(3)
    weights = {site: rng.standard_normal(state.width) for site, state in hidden_states(model).items()}
    return Alarm(tuple(AlarmLayer(site, np.float32(weight)) for site, weight in weights.items()), bias)


def expected(
    model: onnx.ModelProto, alarm: Alarm, feeds: dict[str, np.ndarray], mask: np.ndarray | None = None
) -> np.ndarray:
    """The score (B,) of each request."""
    shown, states = onnx.ModelProto(), hidden_states(model)
    shown.CopyFrom(model)
    there = {*feeds, *(value.name for value in shown.graph.output)}
    for state in states.values():
        if state.name not in there:
            shown.graph.output.append(helper.make_tensor_value_info(state.name, state.dtype, None))
    values = {**feeds, **run(shown, feeds)}
    score = np.full(len(next(iter(feeds.values()))), alarm.bias)
    for layer in alarm.layers:
        for row, tokens in enumerate(values[states[layer.site].name].astype(np.float64)):
            kept = tokens if mask is None else tokens[mask[row] != 0]
            score[row] += (kept.sum(0) / len(kept)) @ layer.weight.astype(np.float64)
    return score


def tiny_case(**options: Any) -> tuple[onnx.ModelProto, tuple[Site, ...], dict[str, np.ndarray]]:
    model = attention_model(layers=2, **options)
    x = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
    return model, find_sites(model)[0], {"x": x}


def packed_case() -> tuple[onnx.ModelProto, tuple[Site, ...], dict[str, np.ndarray]]:
    """com.microsoft Attention, and a projection behind it."""
    rng = np.random.default_rng(0)
    weights = {"inside": (8, 24), "bias": (24,), "outside": (8, 8)}
    tensors = [numpy_helper.from_array(np.float32(rng.standard_normal(size)), name) for name, size in weights.items()]
    nodes = [
        helper.make_node("Attention", ["x", "inside", "bias"], ["a"], "fused", domain="com.microsoft", num_heads=2),
        helper.make_node("MatMul", ["a", "outside"], ["y"], "projected"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", 8]) for name in "xy")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "packed", [x], [y], tensors), opset_imports=imports, ir_version=8
    )
    return model, find_sites(model)[0], {"x": np.float32(rng.standard_normal((3, 5, 8)))}


def silent(sites: tuple[Site, ...], alarm: Alarm | None, **options: Any) -> PatchPlan:
    return PatchPlan({site.id: SitePlan(Static()) for site in sites}, alarm=alarm, **options)


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_score_and_alarm_are_those_of_the_oracle(opset: int, gating: str) -> None:
    model, sites, feeds = tiny_case(opset=opset)
    alarm = alarm_for(model)
    alarm = replace(alarm, bias=float(0.1 - np.median(expected(model, alarm, feeds))))  # some are above 0
    want = expected(model, alarm, feeds)
    found = run(patch(model, silent(sites, alarm, gating=gating), sites), feeds)
    np.testing.assert_allclose(found[ALARM_SCORE], want, rtol=1e-4, atol=1e-5)
    assert found[ALARM].tolist() == (want > 0).tolist() and found[ALARM].any() and not found[ALARM].all()
    assert (found[ALARM].dtype, found[ALARM_SCORE].dtype) == (np.bool_, np.float32)


def test_padding_and_the_other_samples_of_a_batch_change_nothing() -> None:
    export, model, sites = open_export("bert", "dynamo")
    feeds = export.feeds(batch=3)
    feeds["attention_mask"] = (np.arange(feeds["input_ids"].shape[1]) < [[3], [5], [99]]).astype(np.int64)
    alarm = alarm_for(model)
    patched = patch(model, silent(sites, alarm), sites)
    found = run(patched, feeds)[ALARM_SCORE]
    np.testing.assert_allclose(found, expected(model, alarm, feeds, feeds["attention_mask"]), rtol=1e-4)
    for row, length in enumerate((3, 5)):
        alone = {name: array[row : row + 1, :length] for name, array in feeds.items()}
        np.testing.assert_allclose(run(patched, alone)[ALARM_SCORE], found[row : row + 1], rtol=1e-4)


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("odd", [-1, 2, 2**40])
def test_a_mask_of_other_numbers_than_0_and_1_raises_the_alarm_of_its_sample(odd: int, gating: str) -> None:
    """In older exports -1 is a token that the model does not read; it would fill up the mean."""
    export, model, sites = open_export("bert", "dynamo")
    feeds = export.feeds(batch=3)
    feeds["attention_mask"] = (np.arange(feeds["input_ids"].shape[1]) < [[3], [5], [99]]).astype(np.int64)
    alarm = alarm_for(model)
    alarm = replace(alarm, bias=alarm.bias - 100)  # nothing is above 0
    patched = patch(model, silent(sites, alarm, gating=gating), sites)
    before = run(patched, feeds)
    feeds["attention_mask"][1, 5:] = odd
    found = run(patched, feeds)
    assert not before[ALARM].any() and found[ALARM].tolist() == [False, True, False] and found[ALARM_SCORE][1] > 0
    np.testing.assert_array_equal(found[ALARM_SCORE][[0, 2]], before[ALARM_SCORE][[0, 2]])


def test_what_an_alarm_is_fitted_on_is_what_it_reads() -> None:
    export, model, sites = open_export("bert", "dynamo")
    feeds, states = export.feeds(batch=3), hidden_states(model)
    shown, names = pooled_states(model, sites, states)
    means = run(shown, feeds)
    for site, name in names.items():
        one = Alarm((AlarmLayer(site, np.eye(32, dtype=np.float32)[5]),))
        found = run(patch(model, silent(sites, one), sites), feeds)[ALARM_SCORE]
        np.testing.assert_allclose(found, means[name][:, 5], rtol=1e-6)


def test_a_request_that_is_all_padding_gets_a_finite_score() -> None:
    export, model, sites = open_export("bert", "dynamo")
    feeds = export.feeds(batch=2)
    feeds["attention_mask"] = np.zeros_like(feeds["attention_mask"])
    found = run(patch(model, silent(sites, alarm_for(model)), sites), feeds)
    assert np.isfinite(found[ALARM_SCORE]).all()


@pytest.mark.parametrize("passes", ["one", "two"])
def test_all_other_outputs_are_those_of_the_patch_without_it(passes: str) -> None:
    export, model, sites = open_export("bert", "dynamo")
    feeds, alarm = export.feeds(batch=4), alarm_for(model)
    plan = (
        two_pass(sites, "bert", SitePlan(Statistic(rows=1)))
        if passes == "two"
        else PatchPlan({site.id: SitePlan(Statistic(rows=1)) for site in sites}, telemetry=True)
    )
    plan = replace(plan, threshold=splitting_threshold(patch(model, plan, sites), feeds))
    without, patched = patch(model, plan, sites), patch(model, replace(plan, alarm=alarm), sites)
    before, after = run(without, feeds), run(patched, feeds)
    assert before.keys() | {ALARM, ALARM_SCORE} == after.keys() and before["atpatch_flagged"].any()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    if passes == "two":  # the states of the first run, flagged or not
        np.testing.assert_allclose(after[ALARM_SCORE], expected(model, alarm, feeds), rtol=1e-4)
    assert unpatch(patched) == model


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_no_number_is_an_alarm_of_its_own_request_only(number: float, opset: int, gating: str) -> None:
    model, sites, feeds = tiny_case(opset=opset)
    alarm = alarm_for(model, bias=-1e3)  # everything else is quiet
    feeds["x"][1, 2, 3] = number
    patched = patch(model, silent(sites, alarm, gating=gating), sites)
    found = run(patched, feeds)
    assert found[ALARM].tolist() == [False, True, False, False]
    assert not run(patched, feeds, atpatch_enabled=np.array(False))[ALARM].any()


def test_what_is_no_number_at_padding_raises_no_alarm() -> None:
    """A row that sees only padding may be NaN; here the embedding of padding is."""
    export, model, sites = open_export("bert", "dynamo")
    feeds = export.feeds(batch=3)
    feeds["attention_mask"] = (np.arange(feeds["input_ids"].shape[1]) >= [[2], [4], [0]]).astype(np.int64)
    feeds["input_ids"] = np.where(feeds["attention_mask"] == 1, np.maximum(feeds["input_ids"], 1), 0)
    odd = onnx.ModelProto()
    odd.CopyFrom(model)
    (table,) = (one for one in odd.graph.initializer if list(one.dims[:1]) == [99])
    words = numpy_helper.to_array(table).copy()
    words[0] = np.nan
    table.CopyFrom(numpy_helper.from_array(words, table.name))
    alarm = Alarm(alarm_for(odd).layers[:1], -1e3)
    found = run(patch(odd, silent(sites, alarm), sites), feeds)
    np.testing.assert_allclose(found[ALARM_SCORE], expected(odd, alarm, feeds, feeds["attention_mask"]), rtol=1e-4)
    assert not found[ALARM].any()


def test_half_precision_states_are_read_in_single_precision() -> None:
    model, _, feeds = tiny_case()
    half = convert_float_to_float16(model)
    sites = find_sites(half)[0]
    alarm, given = alarm_for(half), {"x": feeds["x"].astype(np.float16)}
    assert {state.dtype for state in hidden_states(half).values()} == {TensorProto.FLOAT16}
    found = run(patch(half, silent(sites, alarm), sites), given)
    assert found[ALARM_SCORE].dtype == np.float32
    np.testing.assert_allclose(found[ALARM_SCORE], expected(half, alarm, given), rtol=5e-3)


def test_the_stamp_names_the_sites_whose_states_are_read() -> None:
    model, sites, _ = tiny_case()
    told = stamp(patch(model, silent(sites, alarm_for(model)), sites))["alarm"]
    assert told.split() == [site.id for site in sites]
    assert alarm_in_words(told) == "output atpatch_alarm, from the hidden states of 2 sites"
    assert "alarm" not in stamp(patch(model, silent(sites, None), sites))


def test_a_patch_that_is_turned_off_raises_no_alarm() -> None:
    model, sites, feeds = tiny_case()
    loud = alarm_for(model, bias=1000.0)
    for controls in ("optional", "none"):
        patched = patch(model, silent(sites, loud, controls=controls), sites)
        assert run(patched, feeds)[ALARM].all()
    patched = patch(model, silent(sites, loud), sites)
    off = run(patched, feeds, atpatch_enabled=np.array(False))
    assert not off[ALARM].any() and (off[ALARM_SCORE] > 0).all()
    assert is_telemetry(ALARM) and is_telemetry(ALARM_SCORE)


def test_a_fused_operator_with_its_weights_inside_shows_its_state() -> None:
    model, sites, feeds = packed_case()
    alarm = alarm_for(model)
    assert [layer.site for layer in alarm.layers] == [sites[0].id]
    found = run(patch(model, silent(sites, alarm), sites), feeds)[ALARM_SCORE]
    np.testing.assert_allclose(found, expected(model, alarm, feeds), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda layer: replace(layer, site="elsewhere"), "ATP023"),
        (lambda layer: replace(layer, weight=layer.weight[1:]), "ATP015"),
    ],
)
def test_a_state_that_is_not_there_or_not_of_this_shape_is_refused(change: Any, code: str) -> None:
    model, sites, _ = tiny_case()
    alarm = alarm_for(model)
    with pytest.raises(AtpatchError) as caught:
        patch(model, silent(sites, Alarm((change(alarm.layers[0]), *alarm.layers[1:]))), sites)
    assert caught.value.code == code


def test_an_alarm_of_no_layer_or_of_one_twice_is_no_plan() -> None:
    model, sites, _ = tiny_case()
    layer = alarm_for(model).layers[0]
    for layers in ((), (layer, layer)):
        with pytest.raises(AtpatchError, match="ATP024"):
            patch(model, silent(sites, Alarm(layers)), sites)


def test_images_have_no_alarm() -> None:
    model = load(export_model("vit", "dynamo").path)
    sites = find_sites(model)[0]
    layer = AlarmLayer(sites[0].id, np.ones(32, np.float32))
    with pytest.raises(AtpatchError, match="ATP023"):
        patch(model, silent(sites, Alarm((layer,))), sites)


def test_healing_has_no_first_run_whose_states_an_alarm_could_read() -> None:
    model, sites, _ = tiny_case()
    plan = silent(sites, alarm_for(model), passes="two", mend="heal", groups=(tuple(site.id for site in sites),))
    with pytest.raises(AtpatchError, match=r"ATP024.*alarm"):
        patch(model, plan, sites)
