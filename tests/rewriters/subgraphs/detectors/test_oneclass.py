"""Distances from clean columns, against the formulas in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rewriters.plan import OneClass
from rewriters.subgraphs.detectors.oneclass import scores
from tests import oracle

from ..emitted import emitted, ran
from .maps import CONTEXTS, VALID, A, context

TOKENS = np.array([[4, 7, 5, 7, 4, 7], [8, 3, 3, 8, 0, 0]])
"""Repeats in the middle, of sinks, and of padding."""


def detector(
    squared: bool,
    by_place: bool,
    rank: int,
    exempt: tuple[int, ...],
    offset: float = 0.1,
    tokens: str | None = None,
) -> OneClass:
    rng, places = np.random.default_rng(5), (6,) if by_place else ()
    mean = rng.uniform(0, 0.2, (*places, 6)).astype(np.float32)
    weight = rng.normal(0.5, size=(*places, 6, 4)).astype(np.float32)
    return OneClass(mean, weight, squared, offset, rank, exempt, tokens=tokens)


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


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
@pytest.mark.parametrize("rank", [0, 1, 2, 9])
@pytest.mark.parametrize("exempt", [(), (0, -1)], ids=str)
@pytest.mark.parametrize("kind", CONTEXTS)
def test_equal_tokens_count_as_one(kind: str, exempt: tuple[int, ...], rank: int, conditional: bool) -> None:
    valid, self_attention = CONTEXTS[kind]
    one = detector(False, False, rank, exempt, offset=-0.5, tokens="t")
    got = ran(lambda e: scores(e, context(kind), one), conditional=conditional, a=A, valid=VALID, t=TOKENS)
    want = oracle.oneclass(A, valid, one, self_attention, tokens=TOKENS)
    real = np.ones_like(VALID) if valid is None else valid
    np.testing.assert_allclose(got[real], want[real], rtol=1e-3, atol=1e-4)
    apart = oracle.oneclass(A, valid, replace(one, tokens=None), self_attention)
    assert not np.allclose(want[real], apart[real], atol=1e-3)


def test_copies_share_what_one_draws_and_are_still_found() -> None:
    """One of eight tokens draws half of the attention; split among four copies, each draws an eighth."""
    shares = {1: [0.5], 4: [0.125] * 4}
    one = OneClass(np.zeros(2, np.float32), np.ones((2, 1), np.float32), False, 0.0, rank=4, tokens="t")
    found = {}
    for copies, drawn in shares.items():
        row = np.concatenate([drawn, np.full(8 - copies, 0.5 / (8 - copies))]).astype(np.float32)
        a, ids = np.tile(row, (1, 1, 8, 1)), np.array([[9] * copies + [*range(8 - copies)]])
        for name, detector in (("together", one), ("apart", replace(one, tokens=None))):
            got = ran(lambda e, d=detector: scores(e, context("plain"), d), a=a, t=ids)  # type: ignore[misc]
            found[copies, name] = got[0, :copies]
    assert found[1, "apart"][0] > 1 and found[4, "apart"].max() < 1e-6
    assert found[4, "together"].min() > 0.75 * found[1, "together"][0] > 1


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
