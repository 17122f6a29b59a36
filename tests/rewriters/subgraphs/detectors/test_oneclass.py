"""Distances from clean columns, against the formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.plan import OneClass
from rewriters.subgraphs.detectors.oneclass import scores
from tests import oracle

from ..emitted import emitted, ran
from .maps import CONTEXTS, VALID, A, context


def detector(squared: bool, by_place: bool, rank: int, exempt: tuple[int, ...], offset: float = 0.1) -> OneClass:
    rng, places = np.random.default_rng(5), (6,) if by_place else ()
    mean = rng.uniform(0, 0.2, (*places, 6)).astype(np.float32)
    weight = rng.normal(0.5, size=(*places, 6, 4)).astype(np.float32)
    return OneClass(mean, weight, squared, offset, rank, exempt)


@pytest.mark.parametrize("rank", [0, 1, 2, 9])
@pytest.mark.parametrize("exempt", [(), (0, -1)], ids=str)
@pytest.mark.parametrize("by_place", [False, True], ids=["all-columns", "each-column"])
@pytest.mark.parametrize("squared", [False, True], ids=["sum", "squares"])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_score(kind: str, squared: bool, by_place: bool, exempt: tuple[int, ...], rank: int) -> None:
    valid, self_attention = CONTEXTS[kind]
    one = detector(squared, by_place, rank, exempt, offset=0.1 if rank != 2 else -0.5)
    got = ran(lambda e: scores(e, context(kind), one), a=A, valid=VALID)
    want = oracle.oneclass(A, valid, one, self_attention)
    real = np.ones_like(VALID) if valid is None else valid
    np.testing.assert_allclose(got[real], want[real], rtol=1e-3, atol=1e-4)
    assert (got[real] > 0).any() or rank


def test_a_plain_sum_is_one_unit() -> None:
    """Where nothing is squared, the units are added up before the product."""
    model = emitted(lambda e: scores(e, context("plain"), detector(False, False, 0, ())), {"a": A})
    assert (1, 6) in {tuple(tensor.dims) for tensor in model.graph.initializer}
    assert "Mul" not in {node.op_type for node in model.graph.node[-6:]}
    squared = emitted(lambda e: scores(e, context("plain"), detector(True, False, 0, ())), {"a": A})
    assert (4, 6) in {tuple(tensor.dims) for tensor in squared.graph.initializer}


def test_without_padding_or_sinks_nothing_is_set_aside() -> None:
    nodes = emitted(lambda e: scores(e, context("plain"), detector(True, False, 2, ())), {"a": A}).graph.node
    assert [node.op_type for node in nodes].count("Where") == 1
