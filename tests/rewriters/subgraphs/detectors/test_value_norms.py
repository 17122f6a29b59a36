"""Norms of what columns write: the feature, and both detectors that read it, against the formulas in numpy."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rewriters.plan import Dense, NormDistance, OneClass, Profile, ValueNorms
from rewriters.subgraphs.detectors import oneclass, profile
from rewriters.subgraphs.detectors.value_norms import norm_features
from tests import oracle

from ..emitted import emitted, ran
from .maps import CONTEXTS, VALID, A, V, context

H, K, D = 3, 6, 4
_rng = np.random.default_rng(11)
NORMS = {
    "of-values": ValueNorms(),
    "of-each-head": ValueNorms(_rng.normal(size=(H, D, D)).astype(np.float32)),
    "of-low-rank": ValueNorms(_rng.normal(size=(H, D, 2)).astype(np.float32)),
    "of-all-heads": ValueNorms(_rng.normal(size=(1, D, 5)).astype(np.float32)),
}
VALUES = {"each": V, "shared-by-heads": V[:, :1], "shared-by-samples": V[:1], "shared-by-all": V[:1, :1]}


def written(v: np.ndarray, norms: ValueNorms) -> np.ndarray:
    w = (
        v
        if norms.factor is None
        else np.stack([v[:, h % v.shape[1]] @ norms.factor[h % len(norms.factor)] for h in range(H)], 1)
    )
    return np.log(np.linalg.norm(w.astype(np.float64), axis=3) + 1e-4)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("shared", VALUES)
@pytest.mark.parametrize("of", NORMS)
def test_feature(of: str, shared: str, opset: int) -> None:
    v = VALUES[shared]
    got = ran(lambda e: norm_features(e, context("plain"), NORMS[of]), v=v, opset=opset)
    want = written(v, NORMS[of])
    np.testing.assert_allclose(
        np.broadcast_to(got, np.broadcast_shapes(got.shape, want.shape)), want, rtol=1e-4, atol=1e-5
    )


def test_a_value_of_zeros_has_a_norm_too() -> None:
    got = ran(lambda e: norm_features(e, context("plain"), ValueNorms()), v=np.zeros_like(V))
    np.testing.assert_allclose(got, np.log(1e-4), rtol=1e-6)


def one(by_place: bool, squared: bool, rank: int, exempt: tuple[int, ...], norms: ValueNorms) -> OneClass:
    rng, places = np.random.default_rng(5), (K,) if by_place else ()

    def test(width: int) -> dict[str, Any]:
        mean = rng.uniform(0, 0.2, (*places, width)).astype(np.float32)
        return {"mean": mean, "weight": rng.normal(0.5, size=(*places, width, 4)).astype(np.float32)}

    second = NormDistance(norms, **test(H), squared=squared, offset=-0.5 if rank else 0.3, rank=rank)
    return OneClass(**test(2 * H), squared=True, offset=0.1, rank=1 if rank == 2 else 0, exempt=exempt, norms=second)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("exempt", [(), (0, -1)], ids=str)
@pytest.mark.parametrize("by_place", [False, True], ids=["all-columns", "each-column"])
@pytest.mark.parametrize("squared", [False, True], ids=["sum", "squares"])
@pytest.mark.parametrize("of", ["of-values", "of-each-head"])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_both_tests_of_a_oneclass_add_up(
    kind: str, of: str, squared: bool, by_place: bool, exempt: tuple[int, ...], rank: int
) -> None:
    valid, self_attention = CONTEXTS[kind]
    detector = one(by_place, squared, rank, exempt, NORMS[of])
    got = ran(lambda e: oneclass.scores(e, context(kind), detector), a=A, v=V, valid=VALID)
    want = oracle.oneclass(A, valid, detector, self_attention, V)
    real = np.ones_like(VALID) if valid is None else valid
    np.testing.assert_allclose(got[real], want[real], rtol=1e-3, atol=1e-4)
    without = oracle.oneclass(A, valid, replace(detector, norms=None), self_attention)
    assert (want[real] > without[real]).any()


@pytest.mark.parametrize("by_place", [False, True], ids=["all-columns", "each-column"])
def test_only_louder_columns_may_count(by_place: bool) -> None:
    both = one(by_place, True, 0, (), NORMS["of-each-head"])
    assert both.norms is not None
    detector = replace(both, norms=replace(both.norms, louder=True))
    got = ran(lambda e: oneclass.scores(e, context("masked"), detector), a=A, v=V, valid=VALID)
    want = oracle.oneclass(A, VALID, detector, True, V)
    np.testing.assert_allclose(got[VALID], want[VALID], rtol=1e-3, atol=1e-4)
    assert (want[VALID] < oracle.oneclass(A, VALID, both, True, V)[VALID] - 1e-3).any()


@pytest.mark.parametrize("shared", VALUES)
@pytest.mark.parametrize("by_place", [False, True], ids=["all-columns", "each-column"])
@pytest.mark.parametrize("of", ["of-values", "of-each-head"])
def test_a_oneclass_of_shared_values(of: str, by_place: bool, shared: str) -> None:
    detector, v = one(by_place, True, 2, (), NORMS[of]), VALUES[shared]
    got = ran(lambda e: oneclass.scores(e, context("masked"), detector), a=A, v=v, valid=VALID)
    want = oracle.oneclass(A, VALID, detector, True, v)
    np.testing.assert_allclose(got[VALID], want[VALID], rtol=1e-3, atol=1e-4)


def network(probes: tuple[int, ...], depth: int, by_place: bool, norms: ValueNorms) -> Profile:
    rng, width = np.random.default_rng(3), H * (2 + len(probes))
    sizes = [width, *[5] * (depth - 1), 1]
    layers = tuple(
        Dense(rng.uniform(-1, 1, (a, b)).astype(np.float32), rng.uniform(-1, 1, b).astype(np.float32))
        for a, b in itertools.pairwise(sizes)
    )
    mean = rng.uniform(-1, 1, (K, width) if by_place else width).astype(np.float32)
    return Profile(layers, mean, rng.uniform(0.5, 2, width).astype(np.float32), probes, norms=norms)


@pytest.mark.parametrize("shared", VALUES)
@pytest.mark.parametrize("by_place", [False, True], ids=["all-columns", "each-column"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("probes", [(), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("of", ["of-values", "of-each-head"])
@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_norms_are_further_columns_of_a_profile(
    kind: str, of: str, probes: tuple[int, ...], depth: int, by_place: bool, shared: str
) -> None:
    valid, self_attention = CONTEXTS[kind]
    detector, v = network(probes, depth, by_place, NORMS[of]), VALUES[shared]
    got = ran(lambda e: profile.scores(e, context(kind), detector), a=A, v=v, valid=VALID)
    want = oracle.profile(A, valid, detector, self_attention, v)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_norms_cost_few_nodes() -> None:
    def nodes(detector: Profile) -> int:
        return len(emitted(lambda e: profile.logits(e, context("plain"), detector), {"a": A, "v": V}).graph.node)

    assert nodes(network((0,), 2, False, NORMS["of-each-head"])) - nodes(without_norms()) == 7


def without_norms() -> Profile:
    whole = network((0,), 2, False, ValueNorms())
    first, *rest = whole.layers
    layers = (Dense(first.weight[: 2 * H], first.bias), *rest)
    return replace(whole, layers=layers, mean=whole.mean[: 2 * H], std=whole.std[: 2 * H], norms=None)
