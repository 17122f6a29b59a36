"""The answer row next to GroupQueryAttention: only this row is computed, and it is the one of the whole map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rewriters.editing.patcher import patch
from rewriters.emit import ConstantPool, Emitter
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import Wiring
from rewriters.plan import PatchPlan, Profile, SitePlan
from rewriters.subgraphs.site import score_site
from tests import oracle

from ..graphs import run
from ..microsoft import CASES, Case
from ..subgraphs.random_detectors import random_profile, separating

GROUPED = [case for case in CASES if case.model.graph.node[0].op_type == "GroupQueryAttention"]


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
