"""Detectors of norms inside whole graphs: real exports, half precision, quantized and fused forms, against numpy."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rewriters.checks import plan_refusal
from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.finding.output_projection import norms_of
from rewriters.names import make_name
from rewriters.plan import NormDistance, OneClass, PatchPlan, SitePlan, ValueNorms
from rewriters.sites import Layout, Site
from tests import oracle
from tests.exports import export_model

from ..graphs import D, H, attention_block, feeds, run
from ..half_precision import feeds_for, half, halved, rounded
from ..microsoft import CASES, Case, N
from ..quantizing import quantized
from ..running import canonical, run_all
from .random_detectors import random_profile, separating

NEVER = 1e30


def loud(heads: int, norms: ValueNorms, every: int = 1) -> OneClass:
    """Columns are scored by their norms only: the sum of squared log-norms."""
    attention = np.zeros(2 * heads, np.float32)
    second = NormDistance(norms, np.zeros(heads, np.float32), np.eye(heads, dtype=np.float32), True, 0.0)
    return OneClass(attention, attention[:, None], False, 0.0, every=every, norms=second)


def random_norms(heads: int, width: int) -> ValueNorms:
    return ValueNorms(np.random.default_rng(heads).normal(size=(heads, width, width)).astype(np.float32))


def plan_of(model: onnx.ModelProto, folder: Path = Path()) -> tuple[PatchPlan, tuple[Site, ...]]:
    sites, _ = find_sites(model)
    written = norms_of(model, sites, folder)
    return PatchPlan({site.id: SitePlan(loud(site.heads or 1, written[site.id].norms)) for site in sites}, NEVER), sites


def showing(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    model = copy.deepcopy(model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    return model


def check(model: onnx.ModelProto, data: dict[str, np.ndarray], rtol: float = 1e-4) -> None:
    """Silent patches keep every bit, and the features are those of numpy."""
    plan, sites = plan_of(model)
    before = run_all(model, data)
    for gating in ("if", "none"):
        patched = patch(model, replace(plan, gating=gating), sites)
        after = run_all(patched, data)
        for name, array in before.items():
            assert array.tobytes() == after[name].tobytes(), (gating, name)
        assert unpatch(patched) == model
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    inner = [name for site in sites for name in (site.values, make_name(site.id, "norm_features"))]
    got = run_all(showing(patch(model, replace(plan, gating="none"), sites), inner), data, optimize=False)
    for site in sites:
        v = canonical(site, got[site.values], site.layout.values).astype(np.float64)
        if site.values_scale is not None:
            scale, zero = ({**constants, **got}.get(name, np.zeros(1)) for name in site.values_scale)
            v = (v - zero.astype(np.float64)) * scale
        detector = plan.sites[site.id].detector
        assert isinstance(detector, OneClass) and detector.norms is not None
        want = np.stack([oracle.norms(sample, site.heads or 1, detector.norms.norms).T for sample in v])
        features = np.broadcast_to(got[make_name(site.id, "norm_features")], want.shape)
        np.testing.assert_allclose(features, want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "whisper", "llama", "t5", "deberta-v2"])
def test_real_exports(family: str, exporter: str) -> None:
    export = export_model(family, exporter)
    check(onnx.load(export.path), export.feeds(3, padded=True))


@pytest.mark.parametrize("how", ["all", "mixed"])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_half_precision(family: str, how: str) -> None:
    """Norms are computed in float32; the values have rounded to half precision."""
    model = halved(how, family, "dynamo")
    check(model, feeds_for(model, family, "dynamo"), 1e-3)


@pytest.mark.parametrize("kind", ["qdq", "qoperator", "dynamic"])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_quantized(family: str, kind: str) -> None:
    export = export_model(family, "dynamo")
    check(quantized(kind, family, "dynamo"), export.feeds(3, padded=True), 1e-3)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_fused_operators(case: Case, every: int) -> None:
    """Also where only some rows of the map are computed."""
    a, v = case.truth.map, case.truth.values
    norms = random_norms(N, v.shape[-1])
    valid = np.ones((len(a), a.shape[-1]), bool) if case.valid is None else case.valid
    visible = valid & (a > 1e-30).any((1, 2))
    detector = loud(N, norms, every)
    scores = np.where(visible, oracle.oneclass(a, visible, detector, case.self_attention, v), -np.inf)
    threshold = separating(scores)
    sites, _ = find_sites(case.model)
    before = run(case.model, case.feeds)["out"]
    for gating in ("if", "none"):
        plan = PatchPlan({sites[0].id: SitePlan(detector)}, threshold, gating, telemetry=True)
        got = run(patch(case.model, plan, sites), case.feeds)
        np.testing.assert_array_equal(got["atpatch_columns/attention"], scores > threshold)
        calm = ~(scores > threshold).any(1)
        assert got["out"][calm].tobytes() == before[calm].tobytes()


@pytest.mark.parametrize("case", [c for c in CASES if not c.id.startswith("qattention")], ids=lambda c: c.id)
def test_fused_operators_in_half_precision(case: Case) -> None:
    model, (single, data) = half(case.model), rounded(case)
    halves = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in data.items()}
    detector = loud(N, random_norms(N, case.truth.values.shape[-1]))
    (site,), (twin,) = find_sites(model)[0], find_sites(single)[0]
    silent = patch(model, PatchPlan({site.id: SitePlan(detector)}, NEVER), [site])
    for name, array in run(model, halves).items():
        assert array.tobytes() == run(silent, halves)[name].tobytes(), name
    scores, score = [], make_name(site.id, "both_signals")
    for one, at, given in ((model, site, halves), (single, twin, data)):
        plan = PatchPlan({at.id: SitePlan(detector)}, NEVER, "none")
        scores.append(run(showing(patch(one, plan, [at]), [score]), given)[score])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("layout", ["4d", "merged", "3d", "2d", "einsum", "transposed"])
def test_layouts(layout: str, padded: bool, every: int) -> None:
    data, block = feeds(layout), attention_block(layout=layout)
    if padded:
        data["bias"][..., 5:] = -np.inf
    heads = H if layout in ("4d", "merged", "einsum") else 1
    # Its weights for a further probe row are those of the norms: as many features, in the same place.
    detector = replace(
        random_profile(heads, np.random.default_rng(3), (0, 2, 4), every), probes=(0, 2), norms=random_norms(heads, D)
    )
    a, v = run(block.model, data)["p"], data["v"]
    if layout == "merged":
        a, v = (x.reshape(-1, H, *x.shape[1:]) for x in (a, v))
    elif layout == "einsum":
        v = v.transpose(0, 2, 1, 3)
    elif layout == "2d":
        a, v = a[None, None], v[None, None]
    elif layout != "4d":
        a, v = a[:, None], v[:, None]
    valid = (a > 0).any((1, 2))
    scores = np.where(valid, oracle.profile(a, valid, detector, False, v), -np.inf)
    threshold = separating(scores)
    before = run(block.model, data)["out"]
    for gating in ("if", "none"):
        plan = PatchPlan({block.site.id: SitePlan(detector)}, threshold, gating, telemetry=True)
        got = run(patch(block.model, plan, [block.site]), data)
        np.testing.assert_array_equal(got[f"atpatch_columns/{block.site.id}"], scores > threshold)
        calm = ~(scores > threshold).any(1)
        if layout in ("4d", "3d", "transposed", "einsum"):
            assert got["out"][calm].tobytes() == before[calm].tobytes()


def test_flagged_and_unflagged_samples_of_a_batch_keep_to_themselves() -> None:
    export = export_model("bert", "dynamo")
    model = onnx.load(export.path)
    plan, sites = plan_of(model)
    patched = patch(model, replace(plan, telemetry=True), sites)
    data = export.feeds(4, padded=True)
    before = run_all(model, data)
    for threshold in np.linspace(1, 60, 120):
        given = {**data, "atpatch_threshold": np.array(threshold, np.float32)}
        after = run_all(patched, given)
        flags = after["atpatch_flagged"].any(1)
        if 0 < flags.sum() < len(flags):
            break
    assert 0 < flags.sum() < len(flags)
    for name, array in before.items():
        for sample, hit in enumerate(flags):
            assert (array[sample].tobytes() == after[name][sample].tobytes()) is not bool(hit)


MISFITS = {
    "of-other-heads": (ValueNorms(np.ones((H + 1, D, D), np.float32)), H, "norms are of 3 heads"),
    "of-another-width": (ValueNorms(np.ones((H, D + 1, D), np.float32)), H, "values 5 wide"),
    "of-other-features": (ValueNorms(), H + 1, "reads 3 norms"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_norms_of_another_site_are_refused(name: str) -> None:
    norms, heads, reason = MISFITS[name]
    block = attention_block()
    detector = replace(loud(H, norms), norms=loud(heads, norms).norms)
    with pytest.raises(AtpatchError, match=reason) as caught:
        patch(block.model, PatchPlan({block.site.id: SitePlan(detector)}), [block.site])
    assert caught.value.code == "ATP015"


def test_a_projection_of_values_with_several_width_axes_is_refused() -> None:
    block = attention_block()
    site = replace(block.site, head_dim=None, layout=Layout(4, values=(0, 1, 2, 3, 4)))
    plans = [PatchPlan({site.id: SitePlan(loud(H, norms))}) for norms in (ValueNorms(), random_norms(H, D))]
    reasons = [plan_refusal(block.model, plan, [site]) for plan in plans]
    assert reasons[0] is None
    assert "one axis of width" in str(reasons[1])
