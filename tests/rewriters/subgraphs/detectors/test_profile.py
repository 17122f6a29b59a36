"""Features of every head through dense layers, against the formulas in numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rewriters.plan import Dense, Profile
from rewriters.subgraphs.detectors.profile import by_head, column_features, dense_stack, logits, scores
from tests import oracle

from ..emitted import emitted, ran
from .maps import CONTEXTS, VALID, A, context


def floats(*shape: int, low: float = -1, high: float = 1) -> np.ndarray:
    return np.random.default_rng(shape).uniform(low, high, shape).astype(np.float32)


def profile(probes: tuple[int, ...], depth: int, by_place: bool, every: int = 1) -> Profile:
    width = 3 * (1 + len(probes))
    sizes = [width, *[5] * (depth - 1), 1]
    layers = tuple(Dense(floats(a, b), floats(b)) for a, b in itertools.pairwise(sizes))
    mean = floats(6, width) if by_place else floats(width)
    return Profile(layers, mean, floats(width, low=0.5, high=2), probes, every)


@pytest.mark.parametrize("by_place", [False, True], ids=["all-columns", "each-column"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("probes", "every"), [((), 1), ((0,), 1), ((2, 0), 2)], ids=["none", "first", "two"])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_probabilities(kind: str, probes: tuple[int, ...], every: int, depth: int, by_place: bool) -> None:
    valid, self_attention = CONTEXTS[kind]
    detector = profile(probes, depth, by_place, every)
    got = ran(lambda e: scores(e, context(kind), detector), a=A, valid=VALID)
    np.testing.assert_allclose(got, oracle.profile(A, valid, detector, self_attention), rtol=1e-4, atol=1e-5)
    before = ran(lambda e: logits(e, context(kind), detector), a=A, valid=VALID)
    np.testing.assert_allclose(1 / (1 + np.exp(-before.astype(np.float64))), got, rtol=1e-4, atol=1e-5)


def test_features_of_one_head_lie_side_by_side() -> None:
    assert by_head(6, (0,)).tolist() == [0, 3, 1, 4, 2, 5]
    assert by_head(3, ()).tolist() == [0, 1, 2]
    got = ran(lambda e: column_features(e, context("plain"), profile((2,), 1, by_place=False)), a=A)
    want = np.log1p(np.stack([A.mean(2), A[:, :, 2]], 2) * 6).reshape(2, 6, 6)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_without_probe_rows_nothing_is_concatenated() -> None:
    nodes = emitted(lambda e: column_features(e, context("plain"), profile((), 1, by_place=False)), {"a": A}).graph.node
    assert "Concat" not in {node.op_type for node in nodes}


def test_dense_layers_have_relu_between_them() -> None:
    layers = tuple(Dense(floats(4, 4), floats(4)) for _ in range(3))
    x = floats(2, 4)
    want = x
    for index, layer in enumerate(layers):
        want = (np.maximum(want, 0) if index else want) @ layer.weight + layer.bias
    np.testing.assert_allclose(ran(lambda e: dense_stack(e, "x", layers), x=x), want, rtol=1e-5, atol=1e-6)
