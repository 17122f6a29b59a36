"""Row i and column i are one token: only where the graph shows it.

Each counterexample is patched, run, and held against numpy.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.finding.self_attention import along, at_scores, is_projection, roots, same_tokens
from rewriters.finding.token_index import index_of
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from tests import oracle

from ..graphs import run
from .graph_text import read
from .projections import (
    CASES,
    MASK,
    Array,
    X,
    Y,
    weight,
)
from .reading import Reading

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


class TestSteps:
    """The parts of the answer, by themselves."""

    INPUTS = "float[B,S,8] x, float[B,T,8] y, float[B,S,8] z"
    BODY = (
        "h = Tanh(x) q = MatMul(h, w) k = MatMul(h, u) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)"
        " m = Mul(s, half) p = Softmax<axis = -1>(m) i = Identity(p) v = MatMul(h, w) out = MatMul(i, v)"
    )

    @staticmethod
    def reading(body: str) -> Reading:
        constants = {"w": weight("wq"), "u": weight("wk"), "half": np.float32(0.5), "n": np.array([0])}
        return read(body, TestSteps.INPUTS, **constants)

    def at(self, body: str, value: str, axis: int) -> tuple[set[tuple[str, tuple[int, ...]]], bool]:
        reading = self.reading(body)
        start = index_of(reading.facts, reading[value], axis)
        assert start is not None
        found, projected = roots(reading.view, reading.facts, start)
        return {(str(one.value.name), one.axes) for one in found}, projected

    def test_roots_are_what_projections_read(self) -> None:
        assert self.at(self.BODY, "q", 1) == ({("h", (1,))}, True)
        assert self.at(self.BODY, "kt", 2) == ({("h", (1,))}, True)

    def test_what_is_not_projected_is_its_own_root(self) -> None:
        assert self.at(self.BODY, "h", 1) == ({("x", (1,))}, False)
        assert self.at("c = Softplus(x) d = MatMul(c, y) out = Neg(d)", "c", 1)[1] is False

    def test_roots_lie_behind_casts_and_moves(self) -> None:
        body = "c = Cast<to = 1>(x) t = Transpose<perm = [1, 0, 2]>(c) q = MatMul(t, w) out = Neg(q)"
        assert self.at(body, "q", 0) == ({("x", (1,))}, True)

    def test_a_projection_multiplies_computed_values_with_constants(self) -> None:
        reading = self.reading(f"{self.BODY} c = Conv(x, w) d = MatMul(w, h) e = MatMul(w, u)")
        told = {name: is_projection(reading.view, reading.node(name)) for name in ("q", "s", "c", "d", "e", "h")}
        assert told == {"q": True, "s": False, "c": True, "d": True, "e": False, "h": False}

    def test_an_index_of_the_map_as_it_is_in_the_scores(self) -> None:
        reading = self.reading(self.BODY)
        anchor, hit, scores = reading.walks()
        for axis in (1, 2):
            index = index_of(reading.facts, reading["i"], axis)
            found = at_scores(reading.view, reading.facts, anchor, hit, scores, index)
            assert found is not None and found.value is reading["s"] and found.axes == (axis,)
        assert at_scores(reading.view, reading.facts, anchor, hit, scores, None) is None

    def test_an_index_into_something_off_the_path_leads_nowhere(self) -> None:
        reading = self.reading(self.BODY)
        anchor, hit, scores = reading.walks()
        aside = index_of(reading.facts, reading["v"], 1)
        assert at_scores(reading.view, reading.facts, anchor, hit, scores, aside) is None
        assert along(reading.view, reading.facts, reading["s"], scores.path, aside) is None

    def test_an_index_at_the_start_of_a_path_stays(self) -> None:
        reading = self.reading(self.BODY)
        _, _, scores = reading.walks()
        start = index_of(reading.facts, reading["s"], 1)
        assert along(reading.view, reading.facts, reading["s"], scores.path, start) == start

    def same(self, body: str, rows: tuple[str, int], columns: tuple[str, int]) -> bool:
        reading = self.reading(body)
        one, other = (index_of(reading.facts, reading[name], axis) for name, axis in (rows, columns))
        return same_tokens(reading.view, reading.facts, one, other)

    def test_tokens_are_the_same_where_their_roots_are(self) -> None:
        assert self.same(self.BODY, ("q", 1), ("kt", 2))
        assert self.same(self.BODY, ("s", 1), ("s", 2)) is self.same(self.BODY, ("s", 2), ("s", 1))
        assert not self.same(self.BODY, ("q", 0), ("kt", 2))
        assert not self.same(f"{self.BODY} o = MatMul(y, w)", ("q", 1), ("o", 1))

    def test_what_is_not_known_is_not_the_same(self) -> None:
        reading = self.reading(self.BODY)
        index = index_of(reading.facts, reading["q"], 1)
        assert same_tokens(reading.view, reading.facts, index, index)
        assert not same_tokens(reading.view, reading.facts, index, None)
        assert not same_tokens(reading.view, reading.facts, None, index)

    @pytest.mark.parametrize(("more", "same"), [(0, True), (1, True), (2, True), (3, False)], ids=str)
    def test_roots_are_compared_up_to_two_projections_further_back(self, more: int, same: bool) -> None:
        chain = " ".join(f"a{n + 1} = MatMul(a{n}, w)" for n in range(more + 1))
        body = f"h = Tanh(x) a0 = Identity(h) {chain} b = MatMul(h, u)"
        deep = f"{body} " + " ".join(f"b{n + 1} = MatMul({f'b{n}' if n else 'b'}, u)" for n in range(more))
        assert self.same(f"{deep} out = Neg(a1)", (f"a{more + 1}", 1), (f"b{more}" if more else "b", 1)) is same
