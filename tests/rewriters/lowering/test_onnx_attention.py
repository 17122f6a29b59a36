"""What the backend cases of `ai.onnx` Attention leave out: rows of NaN, padding, head counts in rank 4, operators
inside other bodies.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from rewriters.editing.fused_sites import lower_fused_sites
from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from tests import oracle

from ..graphs import run
from ..running import with_outputs

B, H, S, D = 3, 2, 6, 4
QKV = f"float[B,{H},S,{D}] q, float[B,{H},S,{D}] k, float[B,{H},S,{D}] v"
both_gates = pytest.mark.parametrize("gating", ["if", "none"])


def model(
    body: str, inputs: str = QKV, outputs: str = f"float[B,{H},S,{D}] out", opset: int = 23, functions: str = ""
) -> onnx.ModelProto:
    header = f'<ir_version: 11, opset_import: ["" : {opset}, "local" : 1]>'
    return parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }} {functions}")


def feeds(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: 2 * rng.normal(size=(B, H, S, D)).astype(np.float32) for name in "qkv"}


def patched(graph: onnx.ModelProto, site_plan: SitePlan, **options: object) -> onnx.ModelProto:
    sites, rejected = find_sites(graph)
    assert sites and not rejected
    return patch(graph, PatchPlan({site.id: site_plan for site in sites}, **options), sites)  # type: ignore[arg-type]


def map_and_values(graph: onnx.ModelProto, data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lowered, (site,) = lower_fused_sites(graph, find_sites(graph)[0])
    got = run(with_outputs(lowered, [site.probabilities, site.values]), data)
    return got[site.probabilities], got[site.values]


@both_gates
def test_a_row_of_nan_changes_no_other_row(gating: str) -> None:
    """A runtime that makes NaN of a fully masked row must not lose every column of the sample by it.

    Here NaN is fed.
    """
    graph, data = model("out = Attention(q, k, v, keep)", f"{QKV}, bool[S,S] keep"), feeds()
    data["keep"] = np.ones((S, S), bool)
    whole = dict(data)
    data["q"] = data["q"].copy()
    data["q"][:, :, 2] = np.nan
    detector = Statistic(exempt=())
    a, _ = map_and_values(graph, data)
    assert np.isfinite(a).all() and not a[:, :, 2].any()
    scores = oracle.statistic(a, np.ones((B, S), bool), detector, True)
    threshold = float(np.sort(scores, axis=None)[-4:-2].mean())
    plan = SitePlan(detector, BenignPair(np.zeros(1, np.float32)))
    firing = patched(graph, plan, gating=gating, threshold=threshold, telemetry=True)
    (site,), _ = find_sites(graph)
    before, after = run(graph, data)["out"], run(firing, data)
    columns = after[f"atpatch_columns/{site.id}"]
    np.testing.assert_array_equal(columns, scores > threshold)
    assert 0 < columns.any(1).sum() <= B
    for sample in range(B):
        changed = (before[sample] != after["out"][sample]).any((0, 2))
        assert np.isnan(after["out"][sample][:, 2]).all() and np.isfinite(np.delete(after["out"][sample], 2, 1)).all()
        assert np.delete(changed, 2).all() == columns[sample].any()
    silent = patched(graph, SitePlan(Static()), gating=gating)
    assert run(silent, data)["out"].tobytes() == before.tobytes()
    assert run(silent, whole)["out"].tobytes() == run(graph, whole)["out"].tobytes()


@both_gates
@pytest.mark.parametrize("opset", [23, 24, 25])
def test_padding_is_never_flagged(opset: int, gating: str) -> None:
    """The lowest float in a whole row leaves it uniform in some runtimes: padding then has mass, and only the mask
    itself tells.
    """
    graph = model(
        "low = Constant<value = float {-3.4028235e38}>() zero = Constant<value = float {0}>() axes ="
        " Constant<value_ints = [1, 2]>() keep = Unsqueeze(attention_mask, axes) both = And(keep, rows) bias ="
        " Where(both, zero, low) out = Attention(q, k, v, bias)",
        f"{QKV}, bool[B,S] attention_mask, bool[B,1,S,1] rows",
        opset=opset,
    )
    (site,), _ = find_sites(graph)
    assert site.key_mask == "attention_mask"
    data = feeds()
    data["attention_mask"] = np.arange(S) < np.array([[S], [S - 1], [S - 2]])
    data["rows"] = data["attention_mask"][:, None, :, None]
    plan = SitePlan(Static((1, S - 1)), BenignPair(np.array([0.5], np.float32)))
    got = run(patched(graph, plan, gating=gating, telemetry=True), data)
    mask = np.zeros((B, S), bool)
    mask[:, [1, S - 1]] = True
    mask &= data["attention_mask"]
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], mask)
    want = oracle.joint(*map_and_values(graph, data), mask, data["attention_mask"], plan.benign)
    np.testing.assert_allclose(got["out"], want, atol=1e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("causal", [0, 1])
def test_columns_that_no_row_sees_count_as_padding(causal: int) -> None:
    """A mask over rows and columns is no padding mask; what it hides from every row has no mass."""
    graph = model(f"out = Attention<is_causal = {causal}>(q, k, v, mask)", f"{QKV}, float[S,S] mask")
    (site,), _ = find_sites(graph)
    assert site.key_mask is None
    data = feeds()
    data["mask"] = np.zeros((S, S), np.float32)
    data["mask"][:, 4] = -np.inf
    got = run(patched(graph, SitePlan(Static((2, 4))), telemetry=True), data)
    assert got[f"atpatch_columns/{site.id}"].tolist() == [[False, False, True, False, False, False]] * B


@both_gates
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_scores_that_are_read_stay_as_they_are(mode: int, gating: str) -> None:
    graph = model(
        f"out, key, value, scores = Attention<qk_matmul_output_mode = {mode}, softcap = 2.0>(q, k, v, mask)",
        f"{QKV}, float[S,S] mask",
        f"float[B,{H},S,{D}] out, float[B,{H},S,S] scores",
    )
    graph.graph.node[0].output[1] = graph.graph.node[0].output[2] = ""
    data = {**feeds(), "mask": np.random.default_rng(1).normal(size=(S, S)).astype(np.float32)}
    before = run(graph, data)
    silent, firing = (run(patched(graph, SitePlan(Static(columns)), gating=gating), data) for columns in ((), (1,)))
    for name in before:
        assert silent[name].tobytes() == before[name].tobytes()
    assert firing["scores"].tobytes() == before["scores"].tobytes()
    a, v = map_and_values(graph, data)
    mask = np.broadcast_to(np.arange(S) == 1, (B, S))
    want = oracle.joint(a, v, mask, None, BenignPair())
    np.testing.assert_allclose(firing["out"], want, atol=1e-5 * np.abs(want).max(), rtol=0)


def test_head_counts_on_rank_4_change_nothing() -> None:
    """onnxruntime takes them at opset 23, though the specification wants them only for rank 3."""
    graph = model(f"out = Attention<q_num_heads = {H}, kv_num_heads = {H}>(q, k, v)")
    data = feeds()
    firing = run(patched(graph, SitePlan(Static((1,)))), data)["out"]
    np.testing.assert_array_equal(
        firing, run(patched(model("out = Attention(q, k, v)"), SitePlan(Static((1,)))), data)["out"]
    )


@both_gates
def test_operators_in_branches_and_functions(gating: str) -> None:
    shape = f"float[B,{H},S,{D}]"
    graph = model(
        f"first = If (go) <then_branch = yes () => ({shape} a) {{ a = Attention(q, k, v) }}, else_branch = no () =>"
        f" ({shape} b) {{ b = Attention<is_causal = 1>(q, k, v) }}> out = local.Attend(first, k, v)",
        f"{QKV}, bool go",
        functions='<domain: "local", opset_import: ["" : 23]> Attend (q, k, v) => (o) { o = Attention(q, k, v) }',
    )
    data = {**feeds(), "go": np.array(False)}
    before = run(graph, data)["out"]
    silent, firing = (patched(graph, SitePlan(Static(columns)), gating=gating) for columns in ((), (1,)))
    assert run(silent, data)["out"].tobytes() == before.tobytes()
    assert np.abs(run(firing, data)["out"] - before).max() > 1e-2
    assert run(firing, data, atpatch_enabled=np.array(False))["out"].tobytes() == before.tobytes()
    assert unpatch(silent) == graph and unpatch(firing) == graph


def test_head_counts_that_the_caller_gives_are_refused() -> None:
    graph = model(
        "out = local.Attend<heads = 2>(q, k, v)",
        "float[B,S,8] q, float[B,S,8] k, float[B,S,8] v",
        "float[B,S,8] out",
        functions=(
            '<domain: "local", opset_import: ["" : 23]> Attend <heads> (q, k, v) => (o)'
            " { o = Attention<q_num_heads: int = @heads, kv_num_heads: int = @heads>(q, k, v) }"
        ),
    )
    sites, (rejection,) = find_sites(graph)
    assert not sites
    assert rejection.code == "fused" and "head counts that are attributes of the function" in rejection.reason
