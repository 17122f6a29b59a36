"""Graphs in half precision, bfloat16 and double, and graphs that mix them.

onnxruntime's CPU provider has no half-precision arithmetic: it computes in float32 between casts of its own, and drops
casts that meet. A silent patch is bit-identical there too. It loads no bfloat16 at all, so those graphs are judged by
the reference evaluator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from rewriters.sites import Site
from tests import oracle
from tests.exports import EXPORTERS, export_model

from ..half_precision import CONVERSIONS, feeds_for, halved
from ..running import canonical, run_all, same_plan, with_outputs
from .evaluation import evaluated

PAIR = BenignPair(np.array([0.5], np.float32))
COLUMNS = (1, 3)

HALF_CASES = [(how, family, exporter) for how in CONVERSIONS for family in ("bert", "vit") for exporter in EXPORTERS]
each_half = pytest.mark.parametrize(
    ("how", "family", "exporter"), HALF_CASES, ids=["-".join(case) for case in HALF_CASES]
)


def recast(model: onnx.ModelProto, dtype: int) -> onnx.ModelProto:
    """Every float32 of a model in another type, inputs and outputs included."""
    model = copy.deepcopy(model)
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)

    def tensor(old: TensorProto) -> TensorProto:
        return numpy_helper.from_array(numpy_helper.to_array(old).astype(numpy_type), old.name)

    for initializer in model.graph.initializer:
        if initializer.data_type == TensorProto.FLOAT:
            initializer.CopyFrom(tensor(initializer))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(tensor(attribute.t))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = dtype
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = dtype
    del model.graph.value_info[:]
    return model


def is_sorted(model: onnx.ModelProto) -> bool:
    """The converter appends its casts at the end of the node list; onnxruntime takes that, the checker does not."""
    known = {"", *(value.name for value in model.graph.input), *(tensor.name for tensor in model.graph.initializer)}
    for node in model.graph.node:
        if not known.issuperset(node.input):
            return False
        known.update(node.output)
    return True


Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], dict[str, np.ndarray]]


def assert_silence_is_exact(model: onnx.ModelProto, feeds: dict[str, np.ndarray], run: Run) -> None:
    sites, rejected = find_sites(model)
    assert len(sites) == 2 and not rejected
    before = run(model, feeds)
    for gating in ("if", "none"):
        patched = patch(model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        if is_sorted(model):
            onnx.checker.check_model(patched)
        after = run(patched, feeds)
        for name, array in before.items():
            assert np.isfinite(array.astype(np.float64)).all()
            assert array.tobytes() == after[name].tobytes(), (gating, name)
        assert unpatch(patched) == model


def assert_firing_agrees(model: onnx.ModelProto, feeds: dict[str, np.ndarray], run: Run, tolerance: float) -> None:
    sites, _ = find_sites(model)
    for gating in ("if", "none"):
        patched = patch(model, same_plan(sites, SitePlan(Static(COLUMNS), PAIR), gating=gating, telemetry=True), sites)
        for site in sites:
            patched = with_outputs(patched, [site.probabilities, site.values, site.product], site.dtype)
        got = run(patched, feeds)
        for site in sites:
            a, v, out = (part.astype(np.float64) for part in tensors_of(site, got))
            valid = feeds[site.key_mask] == 1 if site.key_mask else (a > 1e-30).any((1, 2))
            mask = got[f"atpatch_columns/{site.id}"]
            np.testing.assert_array_equal(mask, np.isin(np.arange(mask.shape[1]), COLUMNS) & valid)
            want = oracle.joint(a, v, mask, valid, PAIR)
            np.testing.assert_allclose(out, want, atol=tolerance * max(1.0, np.abs(want).max()), rtol=0)


def tensors_of(site: Site, got: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    layout = site.layout
    pairs = ((site.probabilities, layout.probabilities), (site.values, layout.values), (site.product, layout.output))
    a, v, out = (canonical(site, got[name], permutation) for name, permutation in pairs)
    return a, v, out


@each_half
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-it-is"])
def test_half_precision_silence_is_exact(how: str, family: str, exporter: str, optimize: bool) -> None:
    model = halved(how, family, exporter)
    assert {site.dtype for site in find_sites(model)[0]} == {TensorProto.FLOAT16}
    assert_silence_is_exact(
        model, feeds_for(model, family, exporter), lambda m, feeds: run_all(m, feeds, optimize=optimize)
    )


@each_half
def test_half_precision_firing_agrees_with_the_oracle(how: str, family: str, exporter: str) -> None:
    model = halved(how, family, exporter)
    assert_firing_agrees(model, feeds_for(model, family, exporter), run_all, 2e-3)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_bfloat16(family: str) -> None:
    """Rounding of bfloat16 is 2⁻⁸; map, values and output are all rounded."""
    model = recast(onnx.load(export_model(family, "torchscript").path), TensorProto.BFLOAT16)
    feeds = feeds_for(model, family, "torchscript")
    assert {site.dtype for site in find_sites(model)[0]} == {TensorProto.BFLOAT16}
    assert_silence_is_exact(model, feeds, evaluated)
    assert_firing_agrees(model, feeds, evaluated, 1e-2)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_double(family: str, exporter: str) -> None:
    model = recast(onnx.load(export_model(family, exporter).path), TensorProto.DOUBLE)
    feeds = feeds_for(model, family, exporter)
    assert {site.dtype for site in find_sites(model)[0]} == {TensorProto.DOUBLE}
    assert_silence_is_exact(model, feeds, evaluated)
    assert_firing_agrees(model, feeds, evaluated, 1e-5)


def test_double_next_to_a_flagged_sample_keeps_every_bit() -> None:
    """The redistribution computes in float32; what is not flagged must not go through it."""
    model = recast(onnx.load(export_model("vit", "dynamo").path), TensorProto.DOUBLE)
    feeds = feeds_for(model, "vit", "dynamo", batch=4)
    sites, _ = find_sites(model)
    first = sites[0]
    before = evaluated(with_outputs(model, [first.product], first.dtype), feeds)[first.product]
    for gating in ("if", "none"):
        plan = PatchPlan({first.id: SitePlan(Statistic(exempt=()), PAIR)}, telemetry=True, gating=gating)  # type: ignore[arg-type]
        patched = with_outputs(patch(model, plan, sites), [first.product], first.dtype)
        for threshold in np.linspace(0.3, 8, 60):
            got = evaluated(patched, {**feeds, "atpatch_threshold": np.array(threshold, np.float32)})
            flags = got["atpatch_flagged"][:, 0]
            if 0 < flags.sum() < len(flags):
                break
        else:
            raise AssertionError("no threshold splits this batch")
        for sample, hit in enumerate(flags):
            assert (before[sample].tobytes() == got[first.product][sample].tobytes()) is not bool(hit), (gating, sample)
