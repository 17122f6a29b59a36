"""The robust z-score, against the formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.plan import Statistic
from rewriters.subgraphs.context import FixedSize
from rewriters.subgraphs.detectors.statistic import scores
from tests import oracle

from ..emitted import emitted, ran
from .maps import CONTEXTS, VALID, A, V, context

CAUSAL = np.tril(A + 0.01).astype(np.float32)


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
@pytest.mark.parametrize("exempt", [(), (0, -1)], ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_score(kind: str, causal: bool, exempt: tuple[int, ...], conditional: bool) -> None:
    valid, self_attention = CONTEXTS[kind]
    a, detector = CAUSAL if causal else A, Statistic(exempt, floor=0.3)
    got = ran(lambda e: scores(e, context(kind), detector), a=a, valid=VALID, conditional=conditional)
    want = oracle.statistic(a, valid, detector, self_attention)
    real = np.ones_like(VALID) if valid is None else valid
    np.testing.assert_allclose(got[real], want[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
@pytest.mark.parametrize("exempt", [(), (0, -1), (2, 9, -7)], ids=str)
@pytest.mark.parametrize("columns", [6, 5])
@pytest.mark.parametrize("rows", [1, 4, 50])
def test_a_small_map_of_fixed_size(exempt: tuple[int, ...], columns: int, rows: int, conditional: bool) -> None:
    """The same scores, without looking which rows see what, and with medians at places that are known."""
    a = A[..., :columns] + np.float32(0.01)
    fixed = context("fixed", alike=True, size=FixedSize(6, columns))
    detector = Statistic(exempt, rows=rows)
    model = emitted(lambda e: scores(e, fixed, detector), {"a": a}, conditional=conditional)
    assert len(model.graph.node) <= 14 and "CumSum" not in {node.op_type for node in model.graph.node}
    got = ran(lambda e: scores(e, fixed, detector), a=a, conditional=conditional)
    np.testing.assert_allclose(got, oracle.statistic(a, None, detector, True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
@pytest.mark.parametrize("exempt", [(), (0, -1)], ids=str)
@pytest.mark.parametrize("kind", ["masked", "by-mask"])
@pytest.mark.parametrize("rows", [1, 50])
def test_where_every_row_sees_every_valid_column(
    rows: int, kind: str, exempt: tuple[int, ...], conditional: bool
) -> None:
    """As many rows see a column as there are columns."""
    a = (A + np.float32(0.01)) * VALID[:, None, None]
    alike, detector = context(kind, alike=True), Statistic(exempt, rows=rows)
    model = emitted(lambda e: scores(e, alike, detector), {"a": a, "valid": VALID}, conditional=conditional)
    assert "ReduceMean" in {node.op_type for node in model.graph.node} and len(model.graph.node) < 45
    got = ran(lambda e: scores(e, alike, detector), a=a, valid=VALID, conditional=conditional)
    want = oracle.statistic(a, VALID, detector, True)
    np.testing.assert_allclose(got[VALID], want[VALID], rtol=1e-4, atol=1e-5)


def test_few_rows_of_a_small_map_judge_nothing() -> None:
    fixed = context("fixed", alike=True, size=FixedSize(2, 6))
    got = ran(lambda e: scores(e, fixed, Statistic((), rows=3)), a=A[:, :, :2] + np.float32(0.01))
    assert np.isneginf(got).all()


def test_columns_that_few_rows_see_are_not_judged() -> None:
    """Under a causal mask K - k rows see column k. What is not judged is no part of the median either."""
    got = ran(lambda e: scores(e, context("plain"), Statistic((), rows=3)), a=CAUSAL)
    assert np.isneginf(got[:, 4:]).all() and np.isfinite(got[:, :4]).all()
    mass = oracle.relative_mass(CAUSAL, None, True)[:, :4]
    center = np.median(mass, 1, keepdims=True)
    spread = np.median(np.abs(mass - center), 1, keepdims=True)
    np.testing.assert_allclose(got[:, :4], (mass - center) / (1.4826 * spread + 0.25), rtol=1e-4, atol=1e-5)


def test_no_more_rows_are_asked_for_than_there_are_columns() -> None:
    got = ran(lambda e: scores(e, context("masked"), Statistic((), rows=50)), a=A + np.float32(0.01), valid=VALID)
    assert np.isfinite(got[VALID]).all()
    got = ran(lambda e: scores(e, context("plain"), Statistic((), rows=50)), a=CAUSAL)
    assert np.isfinite(got[:, 0]).all() and np.isneginf(got[:, 1:]).all()


def test_padding_is_not_judged_where_rows_are_counted() -> None:
    got = ran(lambda e: scores(e, context("masked"), Statistic((), rows=2)), a=A + np.float32(0.01), valid=VALID)
    assert np.isneginf(got[~VALID]).all() and np.isfinite(got[VALID]).all()


@pytest.mark.parametrize("kind", CONTEXTS)
def test_the_smaller_of_two_scores_counts_with_values(kind: str) -> None:
    """Each head's mass times the norm of the column's value, relative to the head's mean norm."""
    valid, self_attention = CONTEXTS[kind]
    real = np.ones_like(VALID) if valid is None else valid
    a, v = A + np.float32(0.01), V * np.array([0.01, 1, 1, 3, 1, 1], np.float32)[:, None]
    detector = Statistic((), by_values=True)
    got = ran(lambda e: scores(e, context(kind), detector), a=a, valid=VALID, v=v)
    rows = real if self_attention else np.ones_like(real)
    norm = np.linalg.norm(v.astype(np.float64), axis=-1) * real[:, None]
    relative = norm / (norm.sum(-1, keepdims=True) / real.sum(1)[:, None, None])
    weights = rows * real.sum(1, keepdims=True)
    mass = np.einsum("bhqk,bq->bhk", a.astype(np.float64), weights) * relative
    written = mass.mean(1) / np.maximum(rows.sum(1, keepdims=True), 1)
    want = np.full(real.shape, -np.inf)
    for b in range(2):
        x = written[b, real[b]]
        z = (x - np.median(x)) / (1.4826 * np.median(np.abs(x - np.median(x))) + 0.25)
        want[b, real[b]] = np.minimum(z, oracle.statistic(a, valid, Statistic(()), self_attention)[b, real[b]])
    np.testing.assert_allclose(got[real], want[real], rtol=1e-3, atol=1e-4)
    assert (got[:, 0] < oracle.statistic(a, valid, Statistic(()), self_attention)[:, 0] - 0.1).all()


def test_the_median_of_an_even_number_lies_between_two() -> None:
    flat = np.full((1, 1, 4, 4), 0.0, np.float32)
    flat[..., :] = [0.1, 0.2, 0.3, 0.4]
    got = ran(lambda e: scores(e, context("plain"), Statistic((), floor=0.0)), a=flat)
    mass = np.array([0.4, 0.8, 1.2, 1.6])
    np.testing.assert_allclose(got[0], (mass - 1.0) / (1.4826 * 0.4), rtol=1e-5)
