"""A patch is in no optimizer's way: what it does not touch is fused as before, and a patched graph may be optimized
afterwards.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.transformers import optimizer

from rewriters.choices import Passes
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import walk_bodies
from rewriters.plan import BenignPair, Dense, PatchPlan, Profile, SitePlan, Static
from tests.exports import ExportedModel, export_model

from .graphs import run
from .masked_stacks import MASKS, encoder
from .microsoft import N
from .subgraphs.random_detectors import random_profile

FUSED = {
    "SkipLayerNormalization",
    "LayerNormalization",
    "BiasGelu",
    "FastGelu",
    "Gelu",
    "QuickGelu",
    "FusedMatMul",
    "BiasSoftmax",
}
LEVELS = {
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
each_export = pytest.mark.parametrize(
    "family, exporter", [("bert", "torchscript"), ("bert", "dynamo"), ("vit", "torchscript")]
)


def patched(model: onnx.ModelProto, plan: SitePlan | None) -> onnx.ModelProto:
    """With a plan at every site; None: a `profile` detector."""
    sites, _ = find_sites(model)
    plans = {site.id: plan or SitePlan(_profile(site.heads or 1), every_row_sees_every_column=True) for site in sites}
    return patch(model, PatchPlan(plans, threshold=2.0), sites)


def _profile(heads: int) -> Profile:
    width = 2 * heads
    return Profile(
        (Dense(np.ones((width, 1), np.float32), np.zeros(1, np.float32)),),
        np.zeros(width, np.float32),
        np.ones(width, np.float32),
    )


def fusions(model: onnx.ModelProto, level: str, folder: Path) -> Counter[str]:
    """Fused operators of the main graph that are not ours, as onnxruntime leaves them."""
    nodes = optimized(model, level, folder).graph.node
    return Counter(node.op_type for node in nodes if node.op_type in FUSED and not node.name.startswith("atpatch/"))


def optimized(model: onnx.ModelProto, level: str, folder: Path) -> onnx.ModelProto:
    source, target = folder / "model.onnx", folder / "optimized.onnx"
    onnx.save(model, source)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return onnx.load(target)


def inserted(model: onnx.ModelProto) -> set[str]:
    """Names of our nodes, in all bodies, and of our constants."""
    names = {node.name for _, body in walk_bodies(model) for node in body.node}
    names |= {tensor.name for tensor in model.graph.initializer}
    return {name for name in names if name.startswith("atpatch/")}


@pytest.mark.parametrize("level", LEVELS)
@each_export
def test_the_rest_is_fused_as_before(family: str, exporter: str, level: str, tmp_path: Path) -> None:
    model = onnx.load(export_model(family, exporter, "eager").path)
    before = fusions(model, level, tmp_path)
    assert before["SkipLayerNormalization"] + before["LayerNormalization"] > 2
    assert before["BiasGelu"] + before["Gelu"] + before["FastGelu"] + before["FusedMatMul"] > 0
    assert fusions(patched(model, None), level, tmp_path) == before


@pytest.mark.parametrize("sees_all", [False, True])
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("mask", ["none", "lengths", "right"])
@pytest.mark.parametrize("passes", ["one", "two"])
def test_an_optimizer_finds_nothing_to_do_in_a_patch(
    passes: Passes, mask: str, every: int, sees_all: bool, tmp_path: Path
) -> None:
    """After each change onnxruntime goes through the whole graph again, so a change costs time at every load."""
    model = encoder(MASKS[mask]).model
    sites, _ = find_sites(model)
    detector = random_profile(N, np.random.default_rng(0), every=every)
    plans = {
        site.id: SitePlan(detector, BenignPair(np.array([0.5 + 0.1 * layer], np.float32)), sees_all)
        for layer, site in enumerate(sites)
    }
    made = patch(model, PatchPlan(plans, passes=passes, groups=(tuple(plans),)), sites)
    assert inserted(made) and not inserted(made) - inserted(optimized(made, "extended", tmp_path))


def test_an_optimizer_finds_nothing_to_do_in_the_patch_of_an_export(tmp_path: Path) -> None:
    """Nor does the patch have axes and sizes that are constants of the model too."""
    model = onnx.load(export_model("bert", "dynamo", "eager").path)
    detector = random_profile(find_sites(model)[0][0].heads or 1, np.random.default_rng(0))
    made = patched(model, SitePlan(detector, BenignPair(np.array([0.5], np.float32)), True))
    assert inserted(made) and not inserted(made) - inserted(optimized(made, "extended", tmp_path))


@pytest.mark.parametrize("columns", [(), (1,)], ids=["silent", "flagged"])
@each_export
def test_a_patched_graph_that_is_optimized_afterwards_is_still_right(
    family: str, exporter: str, columns: tuple[int, ...], tmp_path: Path
) -> None:
    export: ExportedModel = export_model(family, exporter, "eager")
    pair = BenignPair(np.array([0.5], np.float32))
    plain = onnx.load(export.path)
    made = patched(plain, SitePlan(Static(columns), pair))
    onnx.save(made, tmp_path / "patched.onnx")
    optimized = optimizer.optimize_model(str(tmp_path / "patched.onnx"), model_type=family, use_gpu=False, opt_level=0)
    optimized.save_model_to_file(str(tmp_path / "optimized.onnx"))
    after = onnx.load(tmp_path / "optimized.onnx")
    assert {"SkipLayerNormalization", "LayerNormalization"} & {node.op_type for node in after.graph.node}
    feeds = export.feeds(2)
    want, got, before = run(made, feeds), run(after, feeds), run(plain, feeds)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=1e-4, rtol=0, err_msg=name)
    moved = max(float(np.abs(before[name] - got[name]).max()) for name in before)
    assert moved > 1e-2 if columns else moved < 1e-4
