"""`atpatch_span`: how much of the answer row's attention goes to marked tokens, at sites of every form, and that
nothing else changes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from rewriters.editing.edits import apply
from rewriters.editing.patcher import patch, stamp, unpatch
from rewriters.editing.span import add_span, span_sites
from rewriters.emit import ConstantPool
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.names import SPAN, SPAN_ATTENTION, is_telemetry
from rewriters.plan import PatchPlan, SitePlan, Static
from rewriters.sites import Inspection, Site
from tests.exports import export_model

from ..decoders import PAST, PRESENT, decoder, decoder_feeds, merged_decoder
from ..graphs import attention_block, run
from ..half_precision import feeds_for, half, halved
from ..microsoft import CASES, GROUPED, Case
from ..running import run_all, with_outputs

OTHERS = [case for case in CASES if case not in GROUPED and "left" not in case.id and not case.id.startswith("q")]
SPANS = np.array([[1, 3], [2, 5], [0, 2]])
SILENT = SitePlan(Static())


def on_span(row: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """(B, H): the oracle; row (B, H, K), spans (B, 2)."""
    found = np.zeros(row.shape[:2])
    for sample, (begin, end) in enumerate(spans):
        for column in range(row.shape[2]):
            if begin <= column < end:
                found[sample] += row[sample, :, column]
    return found


def plan_of(sites: tuple[Site, ...], **options: object) -> PatchPlan:
    return PatchPlan({site.id: SILENT for site in sites}, **{"span": "required", **options})  # type: ignore[arg-type]


def truth_of(case: Case) -> np.ndarray:
    """The last valid row of a case."""
    a = case.truth.map
    real = np.ones((len(a), a.shape[3]), bool) if case.valid is None else case.valid.astype(bool)
    if case.valid is None and "seqlens_k" in case.feeds:
        real = np.arange(a.shape[3]) <= case.feeds["seqlens_k"].reshape(-1, 1)
    last = a.shape[3] - 1 - real[:, ::-1].argmax(1)
    if "seqlens_k" not in case.feeds:  # there a prompt begins with the sample, and later rows end with it
        last = np.maximum(last - (a.shape[3] - a.shape[2]), 0)
    return np.asarray(a[np.arange(len(a)), :, np.minimum(last, a.shape[2] - 1)])


@pytest.mark.parametrize("case", GROUPED, ids=[case.id for case in GROUPED])
def test_next_to_group_query_attention_it_takes_one_row(case: Case) -> None:
    sites, _ = find_sites(case.model)
    silent, patched = (patch(case.model, plan_of(sites, span=span), sites) for span in (None, "required"))
    row = truth_of(case)
    spans = SPANS[: len(row)]
    got, before = run(patched, {**case.feeds, SPAN: spans}), run(silent, case.feeds)
    np.testing.assert_allclose(got[SPAN_ATTENTION], on_span(row, spans), atol=1e-5)
    assert all(array.tobytes() == got[name].tobytes() for name, array in before.items())
    assert unpatch(patched) == case.model
    ours = [node for node in patched.graph.node if node.name.startswith("atpatch/span/")]
    assert [node.op_type for node in ours].count("Softmax") == 1
    assert sum(node.op_type == "GroupQueryAttention" for node in patched.graph.node) == 1


def spanned(model: onnx.ModelProto, sites: tuple[Site, ...]) -> onnx.ModelProto:
    """The model with nothing but the span, whatever the graph shows of its columns."""
    model, plan = copy.deepcopy(model), plan_of(sites)
    pool = ConstantPool(model.graph.initializer, "constant")
    replacements, appended, _ = add_span(model, plan, sites, [], pool)
    apply(model, {(): replacements}, appended)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("case", OTHERS, ids=[case.id for case in OTHERS])
def test_next_to_other_operators_their_map_is_computed_again(case: Case) -> None:
    """A last row that sees no real column has no attention to speak of."""
    sites, _ = find_sites(case.model)
    got, before = run(spanned(case.model, sites), {**case.feeds, SPAN: SPANS}), run(case.model, case.feeds)
    sound = case.sound[:, -1]
    np.testing.assert_allclose(got[SPAN_ATTENTION][sound], on_span(truth_of(case), SPANS)[sound], atol=1e-5)
    assert all(array.tobytes() == got[name].tobytes() for name, array in before.items())


@pytest.mark.parametrize("case", GROUPED[:3], ids=[case.id for case in GROUPED[:3]])
def test_half_precision(case: Case) -> None:
    model = half(case.model)
    data = {name: x.astype(np.float16) if x.dtype == np.float32 else x for name, x in case.feeds.items()}
    sites, _ = find_sites(model)
    got = run(patch(model, plan_of(sites), sites), {**data, SPAN: SPANS})
    before = run(patch(model, plan_of(sites, span=None), sites), data)
    assert got[SPAN_ATTENTION].dtype == np.float32
    np.testing.assert_allclose(got[SPAN_ATTENTION], on_span(truth_of(case), SPANS), atol=5e-3)
    assert all(array.tobytes() == got[name].tobytes() for name, array in before.items())


@pytest.mark.parametrize("how", ["all", "float-inputs"])
def test_plain_operators_in_half_precision(how: str) -> None:
    model = halved(how, "bert", "torchscript")
    sites, _ = find_sites(model)
    data = feeds_for(model, "bert", "torchscript")
    got = run_all(patch(model, plan_of(sites), sites), {**data, SPAN: SPANS})
    before = run_all(patch(model, plan_of(sites, span=None), sites), data)
    assert all(array.tobytes() == got[name].tobytes() for name, array in before.items())
    exact = onnx.load(export_model("bert", "torchscript").path)
    single = run_all(patch(exact, plan_of(find_sites(exact)[0]), find_sites(exact)[0]), {**data, SPAN: SPANS})
    np.testing.assert_allclose(got[SPAN_ATTENTION], single[SPAN_ATTENTION], atol=5e-3)


def grouped(sites: tuple[Site, ...]) -> tuple[tuple[str, ...], ...]:
    return (tuple(site.id for site in sites),)


FORMS: dict[str, Callable[[tuple[Site, ...]], dict[str, object]]] = {
    "one pass": lambda sites: {},
    "branch-free": lambda sites: {"gating": "none"},
    "healing": lambda sites: {"passes": "two", "groups": grouped(sites), "mend": "heal"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_past", [False, True], ids=["prompt", "step"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_of_plain_operators(family: str, with_past: bool, form: str) -> None:
    model = decoder(with_past, family)
    data = {name: x for name, x in decoder_feeds(with_past).items() if with_past or name not in PAST}
    sites, _ = find_sites(model)
    patched = patch(model, plan_of(sites, **FORMS[form](sites)), sites)
    onnx.checker.check_model(patched)
    got = run(patched, {**data, SPAN: SPANS})
    before = run(patch(model, plan_of(sites, **FORMS[form](sites), span=None), sites), data)
    maps = run(with_outputs(model, [site.probabilities for site in sites]), data)
    rows = [maps[site.probabilities][:, :, -1] for site in sites]
    np.testing.assert_allclose(got[SPAN_ATTENTION], np.concatenate([on_span(row, SPANS) for row in rows], 1), atol=1e-6)
    assert all(array.tobytes() == got[name].tobytes() for name, array in before.items())
    assert unpatch(patched) == model


def test_the_same_two_numbers_hold_in_the_prompt_and_in_every_step() -> None:
    """A step sees of the span what the last row of the whole prompt sees."""
    prompt, step = decoder(False), decoder(True)
    data = decoder_feeds(False)
    ids, mask = data["input_ids"], np.ones_like(data["attention_mask"])
    whole = spans_of(prompt, {"input_ids": ids, "attention_mask": mask})
    first = run(prompt, {"input_ids": ids[:, :4], "attention_mask": mask[:, :4]})
    cached = {name.replace("present", "past_key_values"): first[name] for name in PRESENT}
    np.testing.assert_allclose(
        spans_of(step, {"input_ids": ids[:, 4:], "attention_mask": mask, **cached}), whole, atol=1e-5
    )


def spans_of(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> np.ndarray:
    sites, _ = find_sites(model)
    return run(patch(model, plan_of(sites), sites), {**data, SPAN: SPANS})[SPAN_ATTENTION]


def test_padding_behind_the_prompt_does_not_move_the_answer_row() -> None:
    export = export_model("bert", "torchscript")
    model = onnx.load(export.path)
    data = export.feeds(3, padded=True)
    mask = next(name for name in data if "mask" in name)
    data[mask] = np.ones_like(data[mask])
    data[mask][1, 5:] = 0
    sites, _ = find_sites(model)
    got = run_all(patch(model, plan_of(sites), sites), {**data, SPAN: SPANS})[SPAN_ATTENTION]
    maps = run_all(with_outputs(model, [site.probabilities for site in sites]), data)
    last = data[mask].sum(1) - 1
    want = [on_span(maps[site.probabilities][np.arange(3), :, last], SPANS) for site in sites]
    np.testing.assert_allclose(got, np.concatenate(want, 1), atol=1e-6)


def test_it_is_of_the_first_of_two_passes() -> None:
    model = onnx.load(export_model("bert", "torchscript").path)
    data = export_model("bert", "torchscript").feeds(3)
    sites, _ = find_sites(model)
    firing = {site.id: SitePlan(Static((1,))) for site in sites}
    two = PatchPlan(firing, passes="two", groups=grouped(sites), span="required")
    silent = run_all(patch(model, plan_of(sites), sites), {**data, SPAN: SPANS})
    got = run_all(patch(model, two, sites), {**data, SPAN: SPANS})
    np.testing.assert_array_equal(got[SPAN_ATTENTION], silent[SPAN_ATTENTION])
    assert any(not np.array_equal(got[name], silent[name]) for name in silent)


def case_of(**options: object) -> tuple[onnx.ModelProto, dict[str, np.ndarray], onnx.ModelProto]:
    case = GROUPED[0]
    sites, _ = find_sites(case.model)
    return patch(case.model, plan_of(sites, **options), sites), case.feeds, case.model


def test_an_optional_span_is_empty_where_it_is_left_out() -> None:
    patched, data, _ = case_of(span="optional")
    given, left_out = run(patched, {**data, SPAN: SPANS}), run(patched, data)
    assert given[SPAN_ATTENTION].min() > 0
    np.testing.assert_array_equal(left_out[SPAN_ATTENTION], np.zeros_like(given[SPAN_ATTENTION]))


def test_a_required_span_has_to_be_given() -> None:
    patched, data, _ = case_of()
    with pytest.raises(ValueError, match=SPAN):
        run(patched, data)


def test_one_span_for_all_samples_and_spans_beyond_the_map() -> None:
    patched, data, _ = case_of()
    one, each = (run(patched, {**data, SPAN: span})[SPAN_ATTENTION] for span in ([[1, 3]], [[1, 3]] * 3))
    np.testing.assert_array_equal(one, each)
    whole = run(patched, {**data, SPAN: np.array([[-5, 10**6]])})[SPAN_ATTENTION]
    np.testing.assert_allclose(whole, np.ones_like(whole), atol=1e-6)
    for nothing in ([[3, 3]], [[4, 2]], [[10**6, 10**7]], [[-4, 0]]):
        assert not run(patched, {**data, SPAN: np.array(nothing)})[SPAN_ATTENTION].any()


def test_it_reports_while_the_patch_is_off() -> None:
    patched, data, _ = case_of()
    on, off = (run(patched, {**data, SPAN: SPANS}, atpatch_enabled=np.array(state)) for state in (True, False))
    np.testing.assert_array_equal(on[SPAN_ATTENTION], off[SPAN_ATTENTION])


def test_the_stamp_says_which_heads_the_columns_are() -> None:
    model = decoder(True)
    sites, _ = find_sites(model)
    fact = stamp(patch(model, plan_of(sites, span="optional"), sites))["span"]
    assert json.loads(fact) == {"input": "optional", "heads": {site.id: 4 for site in sites}}
    assert "span" not in stamp(patch(model, plan_of(sites, span=None), sites))
    facts = {"path": "m.onnx", "opset": 17, "nodes": 3, "patch": {"sites": "a b", "span": fact}}
    words = dict(Inspection(facts, sites, ()).summary())["marked span"]
    assert words == f"optional input {SPAN}, output {SPAN_ATTENTION} of 2 sites, 8 heads"
    damaged = Inspection(facts | {"patch": {"span": "[1]"}}, sites, ())
    assert "damaged" in dict(damaged.summary())["marked span"]


def test_only_the_sites_of_the_plan_report() -> None:
    model = decoder(True)
    sites, _ = find_sites(model)
    assert span_sites(model, plan_of(sites[1:]), sites) == [sites[1]]


def test_the_output_is_telemetry_and_no_answer_of_the_model() -> None:
    assert is_telemetry(SPAN_ATTENTION) and not is_telemetry(SPAN)


@pytest.mark.parametrize("what", ["cross-attention", "windows", "a branch", "Q/DQ"])
def test_a_site_whose_columns_are_not_the_tokens_of_a_request_does_not_report(what: str) -> None:
    if what == "cross-attention":
        model = attention_block().model  # its operands are inputs of their own
    elif what == "windows":
        model = onnx.load(export_model("swin", "torchscript").path)
    elif what == "a branch":
        model = merged_decoder()
    else:
        model = decoder(True)
    sites, _ = find_sites(model)
    if what == "Q/DQ":
        sites = tuple(replace(site, quantizer=site.probabilities) for site in sites)
        assert span_sites(model, plan_of(sites), sites) == []
        return
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan_of(sites), sites)
    assert caught.value.code == "ATP023"


def old(model: onnx.ModelProto) -> onnx.ModelProto:
    """IR version 3, where every initializer is an input too."""
    model = copy.deepcopy(model)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return model


def test_below_ir_version_4_it_can_only_be_required() -> None:
    case = GROUPED[0]
    model = old(case.model)
    sites, _ = find_sites(model)
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan_of(sites, span="optional"), sites)
    assert caught.value.code == "ATP023" and "--span required" in caught.value.fix
    patched = patch(model, plan_of(sites), sites)
    got = run(patched, {**case.feeds, SPAN: SPANS})[SPAN_ATTENTION]
    np.testing.assert_allclose(got, on_span(truth_of(case), SPANS), atol=1e-5)
    assert unpatch(patched) == model


def test_where_a_cache_is_no_output_the_operator_runs_a_second_time_for_it() -> None:
    case = next(one for one in GROUPED if one.id == "gqa-prompt")
    model = copy.deepcopy(case.model)
    del model.graph.node[0].output[1:]
    del model.graph.output[1:]
    sites, _ = find_sites(model)
    got = run(spanned(model, sites), {**case.feeds, SPAN: SPANS})
    np.testing.assert_allclose(got[SPAN_ATTENTION], on_span(truth_of(case), SPANS), atol=1e-5)
    assert got["out"].tobytes() == run(model, case.feeds)["out"].tobytes()
