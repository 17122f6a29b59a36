"""Fused attention of `com.microsoft`: silent and firing patches against numpy, mixed batches, undoing, refusals."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from rewriters.editing.fused_sites import lower_fused_sites
from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, Dense, PatchPlan, Profile, SitePlan, Static, Statistic
from tests import oracle

from ..graphs import run, session
from ..half_precision import half, rounded
from ..microsoft import CASES, Case, N, case, one_node
from ..running import with_outputs
from ..subgraphs.random_detectors import separating

each_case = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])


def patched_with(case: Case, site_plan: SitePlan, **options: object) -> onnx.ModelProto:
    sites, _ = find_sites(case.model)
    return patch(case.model, PatchPlan({sites[0].id: site_plan}, **options), sites)  # type: ignore[arg-type]


@each_case
def test_the_truth_is_what_the_operator_computes(case: Case) -> None:
    np.testing.assert_allclose(run(case.model, case.feeds)["out"][case.sound], case.truth.output[case.sound], atol=2e-5)


@each_case
def test_one_site(case: Case) -> None:
    (site,), rejected = find_sites(case.model)
    assert not rejected
    assert (site.heads, site.head_dim, site.key_mask) == (N, case.truth.values.shape[-1], case.key_mask)
    assert site.self_attention == case.self_attention


@pytest.mark.parametrize("gating", ["if", "none"])
@each_case
def test_silent_patch_is_bit_identical_and_undone_exactly(case: Case, gating: str) -> None:
    before = run(case.model, case.feeds)
    patched = patched_with(case, SitePlan(Static()), gating=gating)
    onnx.checker.check_model(patched)
    after = run(patched, case.feeds)
    for name, array in before.items():
        assert array.tobytes() == after[name].tobytes(), name
    assert unpatch(patched) == case.model


@pytest.mark.parametrize("columns", [(1,), (0, 2)], ids=["one", "two"])
@each_case
def test_firing_patch_agrees_with_numpy(case: Case, columns: tuple[int, ...]) -> None:
    width = case.truth.values.shape[-1]
    values = np.random.default_rng(0).normal(size=(1, 1, width)).astype(np.float32)
    pair = BenignPair(np.array([0.5], np.float32), values)
    a, v = case.truth.map, case.truth.values
    valid = np.ones((len(a), a.shape[-1]), bool) if case.valid is None else case.valid
    visible = valid & (a > 1e-30).any((1, 2))
    mask = np.zeros_like(visible)
    mask[:, [column for column in columns if column < mask.shape[1]]] = True
    mask &= visible
    want = oracle.joint(a, v, mask, visible, pair).transpose(0, 2, 1, 3).reshape(*case.truth.output.shape)
    before = run(case.model, case.feeds)["out"]
    for gating in ("if", "none"):
        patched = patched_with(case, SitePlan(Static(columns), pair), gating=gating, telemetry=True)
        got = run(patched, case.feeds)
        np.testing.assert_array_equal(got["atpatch_columns/attention"], mask)
        np.testing.assert_allclose(
            got["out"][case.sound], want[case.sound], atol=1e-5 * max(1.0, np.abs(want).max()), rtol=0
        )
        assert got["out"][~case.sound].tobytes() == before[~case.sound].tobytes()
        assert not np.allclose(got["out"], before, atol=1e-3)


@pytest.mark.parametrize("probes", [(0,), (0, 1)], ids=["row 0", "rows 0 and 1"])
@each_case
def test_detector_of_some_rows(case: Case, probes: tuple[int, ...]) -> None:
    """Where it can, it computes only those rows, and the redistribution computes the map again."""
    a, v = case.truth.map, case.truth.values
    if a.shape[2] <= max(probes):
        pytest.skip("a step of one row")
    rng, width = np.random.default_rng(2), N * (1 + len(probes))
    layer = Dense(rng.normal(size=(width, 1)).astype(np.float32), np.zeros(1, np.float32))
    detector = Profile((layer,), np.full(width, 0.5, np.float32), np.ones(width, np.float32), probes, every=2)
    pair = BenignPair(np.array([0.5], np.float32), rng.normal(size=(1, 1, v.shape[-1])).astype(np.float32))
    valid = np.ones((len(a), a.shape[-1]), bool) if case.valid is None else case.valid
    visible = valid & (a > 1e-30).any((1, 2))
    scores = np.where(visible, oracle.profile(a, visible, detector, case.self_attention), -1.0)
    threshold = separating(np.where(scores >= 0, scores, np.inf))
    want = oracle.joint(a, v, scores > threshold, visible, pair).transpose(0, 2, 1, 3).reshape(*case.truth.output.shape)
    for gating in ("if", "none"):
        got = run(
            patched_with(case, SitePlan(detector, pair), threshold=threshold, gating=gating, telemetry=True), case.feeds
        )
        np.testing.assert_array_equal(got["atpatch_columns/attention"], scores > threshold)
        np.testing.assert_allclose(
            got["out"][case.sound], want[case.sound], atol=1e-5 * max(1.0, np.abs(want).max()), rtol=0
        )


def test_lowered_sites_give_map_and_values() -> None:
    for one in CASES:
        sites, _ = find_sites(one.model)
        lowered, (site,) = lower_fused_sites(one.model, sites)
        got = run(with_outputs(lowered, [site.probabilities, site.values]), one.feeds)
        rows = np.broadcast_to(one.sound[:, None, :, None], one.truth.map.shape)
        np.testing.assert_allclose(got[site.probabilities][rows], one.truth.map[rows], atol=2e-6, err_msg=one.id)
        np.testing.assert_allclose(got[site.values], one.truth.values, atol=2e-5, err_msg=one.id)


@pytest.mark.parametrize("by_values", [False, True])
@pytest.mark.parametrize(
    "id", ["mha-mask-right", "attention-mask-right", "qattention-tensor-mask", "gqa-prompt-padded", "gqa-sink"]
)
def test_samples_of_a_mixed_batch_keep_to_themselves(id: str, by_values: bool) -> None:
    one = case(id)
    detector = SitePlan(Statistic(exempt=(), by_values=by_values), BenignPair(np.zeros(1, np.float32)))
    live = session(patched_with(one, detector, telemetry=True))
    before = run(one.model, one.feeds)["out"]
    for threshold in np.linspace(0.1, 8, 80):
        feeds = {**one.feeds, "atpatch_threshold": np.array(threshold, np.float32)}
        out, hit = live.run(["out", "atpatch_flagged"], feeds)
        if 0 < hit.sum() < len(hit):
            break
    assert 0 < hit.sum() < len(hit)
    for sample, flagged in enumerate(hit[:, 0]):
        if flagged:
            assert not np.array_equal(out[sample], before[sample])
        else:
            assert out[sample].tobytes() == before[sample].tobytes()


@pytest.mark.parametrize(
    "id", ["mha-mask-right", "mha-present", "attention-mask-lengths", "qattention-columns-plain", "gqa-prompt-padded"]
)
def test_two_passes(id: str) -> None:
    one = case(id)
    (site,), _ = find_sites(one.model)
    for columns in ((), (1,)):
        plan = SitePlan(Static(columns))
        twice = patch(one.model, PatchPlan({site.id: plan}, passes="two", groups=((site.id,),)), [site])
        onnx.checker.check_model(twice)
        once = run(patched_with(one, plan), one.feeds)
        for name, array in run(twice, one.feeds).items():
            np.testing.assert_allclose(array, once[name], atol=1e-6, err_msg=name)
        assert unpatch(twice) == one.model


OPSETS = [
    "mha-mask-lengths",
    "mha-bias",
    "mha-past-causal",
    "attention-mask-ends-starts",
    "attention-past",
    "attention-narrow-values",
    "gqa-all",
]


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("id", OPSETS)
def test_every_opset(id: str, opset: int) -> None:
    one = case(id)
    model = copy.deepcopy(one.model)
    model.opset_import[0].version = opset
    sites, _ = find_sites(model)
    plan = PatchPlan({sites[0].id: SitePlan(Static((1,)))})
    patched = patch(model, plan, sites)
    onnx.checker.check_model(patched)
    want = run(patched_with(one, SitePlan(Static((1,)))), one.feeds)["out"]
    np.testing.assert_allclose(run(patched, one.feeds)["out"], want, atol=1e-6)


@pytest.mark.parametrize("one", [c for c in CASES if not c.id.startswith("qattention")], ids=lambda c: c.id)
def test_half_precision(one: Case) -> None:
    model = half(one.model)
    single, feeds = rounded(one)
    halves = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in feeds.items()}
    before = run(model, halves)
    sites, _ = find_sites(model)
    silent = patch(model, PatchPlan({sites[0].id: SitePlan(Static())}), sites)
    onnx.checker.check_model(silent)
    after = run(silent, halves)
    for name, array in before.items():
        assert array.dtype == np.float16 and array.tobytes() == after[name].tobytes(), name
    plan = PatchPlan({sites[0].id: SitePlan(Static((1,)))})
    got = run(patch(model, plan, sites), halves)["out"].astype(np.float32)
    want = run(patch(single, plan, find_sites(single)[0]), feeds)["out"]
    np.testing.assert_allclose(got[one.sound], want[one.sound], atol=2e-3 * max(1.0, np.abs(want).max()))
    assert unpatch(silent) == model


PACKED = f"""
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
packed (float[b, s, {N}, 3, 16] qkv, float[192] bias, int32[b, s] mask) => (float[b, s, 64] out)
{{
    out = com.microsoft.MultiHeadAttention <num_heads = {N}> (qkv, , , bias, mask)
}}
"""
PACKED_KEYS = f"""
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
packed (float[b, s, 64] q, float[b, t, {N}, 2, 16] kv) => (float[b, s, 64] out)
{{
    out = com.microsoft.MultiHeadAttention <num_heads = {N}> (q, kv)
}}
"""


def test_packed_operands() -> None:
    """The CPU provider has no kernel for them: after patching, the operator is swapped for one that takes its operands
    apart first.
    """
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(3, 6, N, 16)).astype(np.float32) for _ in range(3))
    bias, mask = rng.normal(size=192).astype(np.float32), np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 6], np.int32)
    flat = [x.reshape(3, 6, 64) for x in (q, k, v)]
    separate = {"q": flat[0], "k": flat[1], "v": flat[2]}
    for text, feeds, rest, twin in [
        (
            PACKED,
            {"qkv": np.stack([q, k, v], 3), "bias": bias, "mask": mask},
            {"b": bias, "m": mask},
            ["q", "k", "v", "b", "m"],
        ),
        (PACKED_KEYS, {"q": flat[0], "kv": np.stack([k, v], 3)}, {}, ["q", "k", "v"]),
    ]:
        model = onnx.parser.parse_model(text)
        (site,), _ = find_sites(model)
        assert (site.heads, site.head_dim, site.self_attention) == (N, 16, text is PACKED)
        plan = SitePlan(Static((1,)))
        patched = patch(model, PatchPlan({site.id: plan}), [site])
        arrays = {**separate, **rest}
        apart = one_node("MultiHeadAttention", arrays, twin, {"out": TensorProto.FLOAT}, {}, num_heads=N)
        for node in patched.graph.node:
            if node.op_type == "MultiHeadAttention":
                node.input[:] = twin
        patched.graph.input.extend(value for value in apart.graph.input if value.name not in feeds)
        (known,), _ = find_sites(apart)
        want = run(patch(apart, PatchPlan({known.id: plan}), [known]), arrays)["out"]
        np.testing.assert_allclose(run(patched, {**arrays, **feeds})["out"], want, atol=1e-6)
        assert unpatch(patch(model, PatchPlan({site.id: plan}), [site])) == model


IN_BRANCHES = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
nested (float[b, s, 64] q, float[b, s, 64] k, float[b, s, 64] v, int32[b, s] m, bool go) => (float[b, s, 64] out)
{
    out = If (go) <
        then_branch = yes () => (a) { a = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v, , m) },
        else_branch = no () => (c) { c = com.microsoft.MultiHeadAttention <num_heads = 4> (k, q, v, , m) }
    >
}
"""
IN_FUNCTION = """
<ir_version: 9, opset_import: ["" : 18, "local" : 1, "com.microsoft" : 1]>
calls (float[b, s, 64] q, float[b, s, 64] k, float[b, s, 64] v, int32[b, s] m) => (float[b, s, 64] out)
{
    first = local.Attend (q, k, v, m)
    out = local.Attend (first, k, v, m)
}
<domain: "local", opset_import: ["" : 18, "com.microsoft" : 1]>
Attend (q, k, v, m) => (out) { out = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v, , m) }
"""


@pytest.mark.parametrize("text", [IN_BRANCHES, IN_FUNCTION], ids=["branches", "function"])
def test_sites_in_inner_bodies(text: str) -> None:
    model = onnx.parser.parse_model(text)
    feeds = dict(case("mha-mask-right").feeds)
    if "bool go" in text:
        feeds["go"] = np.array(False)
    sites, _ = find_sites(model)
    assert len(sites) == text.count("MultiHeadAttention <")
    before = run(model, feeds)["out"]
    silent = patch(model, PatchPlan({site.id: SitePlan(Static()) for site in sites}), sites)
    onnx.checker.check_model(silent)
    assert run(silent, feeds)["out"].tobytes() == before.tobytes()
    firing = patch(model, PatchPlan({site.id: SitePlan(Static((1,))) for site in sites}), sites)
    assert not np.allclose(run(firing, feeds)["out"], before, atol=1e-3)
    assert unpatch(firing) == model
