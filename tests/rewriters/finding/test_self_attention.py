"""Row i and column i are one token: only where the graph shows it.

Each counterexample is patched, run, and held against numpy.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from tests import oracle

from ..graphs import run
from .projections import (
    CASES,
    MASK,
    Array,
    X,
    Y,
)

each_case = pytest.mark.parametrize("name", CASES)
DETECTORS = {"statistic": (Statistic(exempt=()), 0.3), "static": (Static((1, 4)), 0.0)}


def feeds_of(model: onnx.ModelProto) -> dict[str, Array]:
    every = {"x": X, "y": Y, "attention_mask": MASK}
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name: every[value.name] for value in model.graph.input if value.name not in weights}


@each_case
def test_it_is_said_only_where_it_is_shown(name: str) -> None:
    (site,), rejected = find_sites(CASES[name].model())
    assert not rejected
    assert site.self_attention is CASES[name].expected


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("kind", DETECTORS)
@each_case
def test_a_firing_patch_runs_and_agrees_with_numpy(name: str, kind: str, gating: str) -> None:
    case = CASES[name]
    model, (detector, threshold) = case.model(), DETECTORS[kind]
    (site,), _ = find_sites(model)
    a, v = case.truth()
    feeds = feeds_of(model)
    np.testing.assert_allclose(run(model, feeds)["out"], (a @ v)[:, 0], atol=1e-4)
    valid = a.max((1, 2)) > 1e-30
    if kind == "static":
        columns = np.zeros_like(valid)
        columns[:, [column for column in detector.columns if column < valid.shape[1]]] = True
        columns &= valid
    else:
        columns = (oracle.statistic(a, valid, detector, case.expected) > threshold) & valid
    assert columns.any()
    assert not columns.all()
    pair = BenignPair(np.array([0.5], np.float32), np.full((1, 1, v.shape[-1]), 0.3, np.float32))
    plan = PatchPlan({site.id: SitePlan(detector, pair)}, threshold=threshold, gating=gating, telemetry=True)
    got = run(patch(model, plan, [site]), feeds)
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], columns)
    np.testing.assert_allclose(got["out"], oracle.joint(a, v, columns, valid, pair)[:, 0], atol=2e-4)


@each_case
def test_a_silent_patch_is_bit_identical(name: str) -> None:
    model = CASES[name].model()
    (site,), _ = find_sites(model)
    plan = PatchPlan({site.id: SitePlan(Static())})
    np.testing.assert_array_equal(
        run(patch(model, plan, [site]), feeds_of(model))["out"], run(model, feeds_of(model))["out"]
    )
