"""Large weights in the branch of a second run: read as they are, and no constant for onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from rewriters.editing import unpacked_weights
from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import walk_bodies
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Statistic

from ..finding.stacked_sites import stacked
from ..running import run_all

WIDTH = 256
RNG = np.random.default_rng(0)
FEEDS = {
    "x": RNG.normal(size=(3, 6, WIDTH)).astype(np.float32),
    "attention_mask": np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 6]),
}


def wide(layers: int = 2) -> onnx.ModelProto:
    """Attention blocks whose weights are large."""
    model = stacked(layers)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = (np.random.default_rng(1).normal(size=(WIDTH, WIDTH)) / 32).astype(np.float32)
    for name, value in {"w": weight, "split": [0, 0, 2, WIDTH // 2], "join": [0, 0, WIDTH]}.items():
        tensors[name].CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[2].dim_value = WIDTH
    return model


def two_passes(model: onnx.ModelProto, **options: object) -> onnx.ModelProto:
    sites, _ = find_sites(model)
    plans = {site.id: SitePlan(Statistic(exempt=()), BenignPair(np.array([0.5], np.float32)), True) for site in sites}
    made = patch(model, PatchPlan(plans, passes="two", groups=(tuple(plans),), threshold=0.0, **options), sites)  # type: ignore[arg-type]
    onnx.checker.check_model(made, full_check=True)
    assert unpatch(made) == model
    return made


def readers(model: onnx.ModelProto) -> list[str]:
    """Operators that read the weight in branches."""
    return [node.op_type for where, body in walk_bodies(model) if where for node in body.node if "w" in node.input]


def test_a_flagged_request_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wide()
    made, before = two_passes(model), run_all(model, FEEDS)["out"]
    got = run_all(made, FEEDS)["out"]
    assert np.abs(got - before).max((1, 2)).min() > 1e-3
    monkeypatch.setattr(unpacked_weights, "_LEAST", WIDTH * WIDTH + 1)
    plain = two_passes(model)
    assert set(readers(plain)) == {"MatMul"} and set(readers(made)) == {"Reshape"}
    np.testing.assert_allclose(got, run_all(plain, FEEDS)["out"], atol=1e-5)
    silent = {**FEEDS, "atpatch_threshold": np.array(1e30, np.float32)}
    assert run_all(made, silent)["out"].tobytes() == before.tobytes()


def test_each_weight_is_read_once() -> None:
    assert len(readers(two_passes(wide(4)))) == 1


def test_an_optimizer_makes_no_constant_of_it(tmp_path: Path) -> None:
    onnx.save(two_passes(wide()), tmp_path / "patched.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "patched.onnx", options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert readers(optimized) == ["Reshape"]
    large = [tensor.name for tensor in optimized.graph.initializer if np.prod(tensor.dims) >= WIDTH * WIDTH]
    assert large == ["w"]


def test_without_branches_there_is_nothing_to_do() -> None:
    assert not readers(two_passes(wide(), gating="none"))
