"""Detectors that read the answer row of a map that is a value of the graph, against the numpy oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.fitting.detectors import features
from rewriters.editing.patcher import patch
from rewriters.emit import Emitter
from rewriters.errors import AtpatchError
from rewriters.plan import NormDistance, OneClass, PatchPlan, Profile, SitePlan, ValueNorms
from rewriters.subgraphs.context import MapContext
from rewriters.subgraphs.detectors import evidence, oneclass, profile, scores
from tests import oracle

from ...graphs import attention_block
from ..emitted import emitted, ran
from ..random_detectors import random_profile

B, H, K, D = 4, 3, 8, 4
PADDING = {
    "full": np.ones((B, K), bool),
    "right": np.arange(K) < np.array([[K], [6], [7], [5]]),
    "left": np.arange(K) >= np.array([[0], [3], [5], [1]]),
    "between turns": ~np.isin(np.arange(K), (3, 4)) | (np.arange(B) % 2 == 0)[:, None],
}
_rng = np.random.default_rng(17)
V = _rng.normal(size=(B, H, K, D)).astype(np.float32)
NORMS = ValueNorms(_rng.normal(size=(H, D, 2)).astype(np.float32))


def a_map(valid: np.ndarray, rows: int, window: int = K) -> np.ndarray:
    """Of a decoder whose rows are its last tokens: they see no future, no padding and nothing beyond the window."""
    row, column = np.arange(K - rows, K)[:, None], np.arange(K)
    seen = (column <= row) & (column > row - window) & valid[:, None]
    weights = np.random.default_rng(rows).gamma(0.5, size=(B, H, rows, K)) * seen[:, None]
    # A row that sees nothing is padding, and models spread it over all columns.
    weights = np.where(seen.any(-1)[:, None, :, None], weights, 1.0)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def network(norms: ValueNorms | None = None, seeing_rows: bool = False) -> Profile:
    made = random_profile(H * (1 + (norms is not None) + 2 * seeing_rows), np.random.default_rng(5), probes=())
    return replace(made, norms=norms, answer_row=True, seeing_rows=seeing_rows)


def distance(norms: ValueNorms | None = None, **more: Any) -> OneClass:
    rng = np.random.default_rng(8)
    mean, weight = rng.random(H).astype(np.float32), rng.normal(size=(H, 2)).astype(np.float32)
    second = None if norms is None else NormDistance(norms, mean, weight, True, 0.2)
    return OneClass(mean, weight, True, 0.1, probes=(), norms=second, answer_row=True, **more)


def context(padded: bool) -> MapContext:
    return MapContext("a", "valid" if padded else None, self_attention=False, values=lambda e: "v")


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "branch-free"])
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("rows", [K, 3, 1], ids=lambda rows: f"{rows} rows")
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("seeing", [False, True], ids=["the row only", "seeing rows"])
def test_a_profile_reads_the_last_valid_row(
    seeing: bool, padding: str, rows: int, opset: int, conditional: bool
) -> None:
    valid, detector = PADDING[padding], network(NORMS, seeing)
    a = a_map(valid, rows)
    where: dict[str, Any] = {"opset": opset, "conditional": conditional, "a": a, "v": V, "valid": valid}
    got = ran(lambda e: profile.scores(e, context(True), detector), **where)
    np.testing.assert_allclose(got, oracle.profile(a, valid, detector, False, V), rtol=1e-4, atol=1e-5)
    before = ran(lambda e: evidence(e, context(True), detector), **where)
    np.testing.assert_array_equal(np.isneginf(before), np.isneginf(got))
    np.testing.assert_allclose(1 / (1 + np.exp(-before[got >= 0])), got[got >= 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("exempt", [(), (1, -1)], ids=str)
@pytest.mark.parametrize("padding", PADDING)
def test_a_oneclass_reads_the_last_valid_row(padding: str, exempt: tuple[int, ...], rank: int) -> None:
    valid, detector = PADDING[padding], distance(NORMS, exempt=exempt, rank=rank)
    a = a_map(valid, K)
    got = ran(lambda e: oneclass.scores(e, context(True), detector), a=a, v=V, valid=valid)
    np.testing.assert_allclose(got, oracle.oneclass(a, valid, detector, False, V), rtol=1e-3, atol=1e-4)


def test_without_padding_all_rows_that_see_a_column_are_read() -> None:
    a, detector = a_map(PADDING["full"], K, window=5), network(seeing_rows=True)
    got = ran(lambda e: scores(e, context(False), detector), a=a)
    np.testing.assert_allclose(got, oracle.profile(a, None, detector, False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("detector", [network(), distance()], ids=["profile", "oneclass"])
def test_without_padding_it_is_the_last_row(detector: Profile | OneClass) -> None:
    a = a_map(PADDING["full"], 3)
    got = ran(lambda e: scores(e, context(False), detector), a=a)
    np.testing.assert_array_equal(got, ran(lambda e: scores(e, context(False), detector), a=a[:, :, -1:]))
    judge = oracle.profile if isinstance(detector, Profile) else oracle.oneclass
    np.testing.assert_allclose(got, judge(a, None, detector, False), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("detector", [network(NORMS), distance(NORMS)], ids=["profile", "oneclass"])
def test_sinks_padding_and_what_lies_behind_a_window_never_fire(detector: Profile | OneClass) -> None:
    valid = PADDING["right"]
    a = a_map(valid, K, window=3)
    got = ran(lambda e: scores(e, context(True), detector), a=a, v=V, valid=valid)
    length = valid.sum(1, keepdims=True)
    judged = (np.arange(K) >= length - 3) & (np.arange(K) > 0) & valid
    np.testing.assert_array_equal(np.isneginf(got), ~judged)
    assert np.isfinite(got[judged]).all()


def test_a_prompt_scores_the_same_at_every_padding_and_in_every_batch() -> None:
    detector, a = network(NORMS), a_map(PADDING["full"], K)[:1, :, :5, :5]
    a = (a / a.sum(-1, keepdims=True)).astype(np.float32)
    alone = ran(lambda e: scores(e, context(True), detector), a=a, v=V[:1, :, :5], valid=np.ones((1, 5), bool))
    for start in (0, 3):
        wide, valid = a_map(PADDING["full"], K), PADDING["full"].copy()
        wide[0], valid[0] = 0.0, False
        wide[0, :, start : start + 5, start : start + 5], valid[0, start : start + 5] = a[0], True
        v = V.copy()
        v[0, :, start : start + 5] = V[0, :, :5]
        got = ran(lambda e: scores(e, context(True), detector), a=wide, v=v, valid=valid)
        np.testing.assert_allclose(got[0, start : start + 5], alone[0], rtol=1e-5)


def test_a_sample_without_a_valid_new_token_is_read_at_its_first_row() -> None:
    valid = np.arange(K) < np.array([[3], [K], [4], [1]])
    a, detector = a_map(PADDING["full"], 2), network()
    got = ran(lambda e: scores(e, context(True), detector), a=a, valid=valid)
    np.testing.assert_allclose(got, oracle.profile(a, valid, detector, False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [K, 3, 1], ids=lambda rows: f"{rows} rows")
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("seeing", [False, True], ids=["the row only", "seeing rows"])
def test_fitting_computes_the_same_numbers(seeing: bool, padding: str, rows: int) -> None:
    valid, detector = PADDING[padding], network(NORMS, seeing)
    a = a_map(valid, rows, window=5)
    read = features.answer_row_features(a, valid, values=V, norms=NORMS, seeing_rows=seeing)
    judged = features.answer_row_scored(a, valid)
    want = oracle.profile(a, valid, detector, False, V)
    np.testing.assert_array_equal(judged, ~np.isneginf(want))
    np.testing.assert_allclose(features.profile_scores(detector, read)[judged], want[judged], rtol=1e-5)
    plain = features.answer_row_features(a, valid)
    np.testing.assert_array_equal(plain, read[..., :H])


def test_features_worked_by_hand() -> None:
    a = np.float32([[[[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.2, 0.3]], [[1, 0, 0], [1, 0, 0], [0, 0.1, 0.9]]]])
    np.testing.assert_allclose(features.answer_row_features(a)[0], np.log1p([[1.5, 0], [0.6, 0.3], [0.9, 2.7]]))
    two = np.array([[True, True, False]])
    np.testing.assert_allclose(features.answer_row_features(a, two)[0, :2], np.log1p([[0.5, 2], [1.5, 0]]))
    assert features.answer_row_scored(a, two).tolist() == [[False, True, False]]


def test_features_of_seeing_rows_worked_by_hand() -> None:
    a = np.float32([[[[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.2, 0.3]], [[1, 0, 0], [1, 0, 0], [0, 0.1, 0.9]]]])
    read = np.expm1(features.answer_row_features(a, seeing_rows=True))[0, :, 2:]
    # Row 0 sees one column, row 1 two and row 2 three.
    mean = [[(1 + 0.5 + 1.5) / 3, (1 + 2 + 0) / 3], [(1.5 + 0.6) / 2, (0 + 0.3) / 2], [0.9, 2.7]]
    np.testing.assert_allclose(read, np.hstack([mean, [[1.5, 2], [1.5, 0.3], [0.9, 2.7]]]), rtol=1e-5)


def test_it_costs_few_nodes() -> None:
    def nodes(emit: Any) -> int:
        return len(emitted(emit, {"a": a_map(PADDING["full"], K), "valid": PADDING["full"]}).graph.node)

    def both(e: Emitter) -> str:
        return profile.logits(e, context(True), network())

    assert nodes(both) <= 45


@pytest.mark.parametrize("detector", [replace(network(), probes=(0,)), replace(distance(), every=2)], ids=str)
def test_next_to_the_answer_row_no_other_row_is_read(detector: Profile | OneClass) -> None:
    block = attention_block()
    with pytest.raises(AtpatchError) as caught:
        patch(block.model, PatchPlan({block.site.id: SitePlan(detector)}), [block.site])
    assert caught.value.code == "ATP024"


def test_rows_that_see_a_column_are_only_read_next_to_the_answer_row() -> None:
    block = attention_block()
    heads = block.site.heads or 1
    detector = replace(random_profile(3 * heads, np.random.default_rng(5), probes=()), seeing_rows=True)
    with pytest.raises(AtpatchError, match="only next to the answer row") as caught:
        patch(block.model, PatchPlan({block.site.id: SitePlan(detector)}), [block.site])
    assert caught.value.code == "ATP024"
