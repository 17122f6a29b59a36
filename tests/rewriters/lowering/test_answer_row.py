"""The answer row next to GroupQueryAttention: only this row is computed, and it is the one of the whole map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from scipy.special import logit

from rewriters.editing.patcher import patch
from rewriters.emit import ConstantPool, Emitter
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import Wiring
from rewriters.plan import PatchPlan, Profile, SitePlan
from rewriters.subgraphs.site import score_site
from tests import oracle

from ..graphs import run
from ..microsoft import CASES, GROUPED, Case
from ..subgraphs.random_detectors import random_profile, separating


@pytest.mark.parametrize("case", GROUPED, ids=[case.id for case in GROUPED])
def test_flags_follow_from_the_answer_row_of_the_map(case: Case) -> None:
    (site,), _ = find_sites(case.model)
    a = case.truth.map
    batch, heads, rows, columns = a.shape
    real = np.ones((batch, columns), bool) if case.valid is None else case.valid.astype(bool)
    if case.valid is None and "seqlens_k" in case.feeds:
        real = np.arange(columns) <= case.feeds["seqlens_k"].reshape(-1, 1)
    detector = replace(random_profile(heads, np.random.default_rng(3), probes=()), answer_row=True)
    # In a prompt the rows begin with the sample, else they end with it; both ways the last valid one is this.
    at = np.minimum(real.sum(1), rows) - 1
    row = a[np.arange(batch), :, at][:, :, None]
    scores = oracle.profile(row, real, detector, False)
    threshold = separating(scores, 0.4)
    plan = PatchPlan({site.id: SitePlan(detector)}, threshold, telemetry=True)
    got = run(patch(case.model, plan, [site]), case.feeds)
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], scores > threshold)


SQUARE = [case for case in CASES if case.truth.map.shape[2] == case.truth.map.shape[3]]
"""Without a past."""


@pytest.mark.parametrize("case", SQUARE, ids=[case.id for case in SQUARE])
def test_rows_that_see_a_column_are_those_of_the_whole_map(case: Case) -> None:
    (site,), _ = find_sites(case.model)
    a = case.truth.map
    batch, heads, _, columns = a.shape
    real = np.ones((batch, columns), bool) if case.valid is None else case.valid.astype(bool)
    detector = random_profile(3 * heads, np.random.default_rng(3), probes=())
    detector = replace(detector, answer_row=True, seeing_rows=True)
    scores = oracle.profile(a, real, detector, False)
    threshold = separating(scores, 0.4)
    plan = PatchPlan({site.id: SitePlan(detector)}, threshold, telemetry=True)
    got = run(patch(case.model, plan, [site]), case.feeds)
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], scores > threshold)


def test_a_detector_of_the_answer_row_computes_one_row_of_the_map() -> None:
    case = GROUPED[0]
    (site,), _ = find_sites(case.model)
    detector = random_profile(case.truth.map.shape[1], np.random.default_rng(3), probes=())

    def nodes(one: Profile) -> list[str]:
        e = Emitter(site.id, 17, ConstantPool([], "shared"), {})
        score_site(e, site, SitePlan(one), Wiring(case.model.graph.node, ["out"]))
        return [node.op_type for node in e.nodes]

    of_the_row = nodes(replace(detector, answer_row=True))
    assert (of_the_row.count("Softmax"), of_the_row.count("GatherND")) == (1, 1)
    assert "GatherND" not in nodes(detector)
    assert len(of_the_row) <= 67


def test_a_column_in_front_of_a_window_adds_nothing() -> None:
    """Another site of the sum may see it, so it has no score, not the lowest one."""
    (case,) = (case for case in GROUPED if case.id == "gqa-window")
    (site,), _ = find_sites(case.model)
    a = case.truth.map
    row, real = a[:, :, -1:], np.ones((len(a), a.shape[3]), bool)
    sees = row.mean((1, 2)) > 0
    assert sees.any(1).all() and not sees.all(1).any(), "a window in each sample"
    detector = replace(random_profile(a.shape[1], np.random.default_rng(3), probes=()), answer_row=True)
    probability = oracle.profile(row, real, detector, False)
    constants: list[onnx.TensorProto] = []
    e = Emitter(site.id, 17, ConstantPool(constants, "shared"), {})
    patch_ = score_site(e, site, SitePlan(detector), Wiring(case.model.graph.node, ["out"]))
    assert patch_.score is not None and patch_.seen is not None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(e.nodes)
    model.graph.initializer.extend(constants)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (patch_.score, patch_.seen))
    got = run(model, case.feeds)
    np.testing.assert_array_equal(got[patch_.seen], sees)
    judged = sees & (np.arange(a.shape[3]) > 0)
    np.testing.assert_allclose(got[patch_.score][judged], logit(probability[judged]), atol=1e-4)
    assert (got[patch_.score][~sees] == 0).all() and np.isneginf(got[patch_.score][sees & ~judged]).all()
