"""Distances from clean columns, against the formulas in numpy."""

from __future__ import annotations

from collections import Counter
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


@pytest.mark.parametrize(
    "known",
    [[(5, 2.0), (7, 0.5)], [(4, 3.0), (6, 0.5)], [(1, 5.0), (3, 0.25)], [(7, 0.25), (9, 5.0)], [(5, 0.5)]],
    ids=["between", "at-the-ends", "longer", "shorter", "one"],
)
@pytest.mark.parametrize("kind", CONTEXTS)
def test_scores_are_multiplied_by_the_factor_of_their_length(kind: str, known: list[tuple[float, float]]) -> None:
    """The samples have 6 valid columns and 4, or 6 and 6."""
    valid, self_attention = CONTEXTS[kind]
    one = replace(detector(False, False, 2, (0, -1), offset=-0.5), by_length=np.float32(known))
    got = ran(lambda e: scores(e, context(kind), one), a=A, valid=VALID)
    want = oracle.oneclass(A, valid, one, self_attention)
    real = np.ones_like(VALID) if valid is None else valid
    np.testing.assert_allclose(got[real], want[real], rtol=1e-3, atol=1e-4)
    plain = oracle.oneclass(A, valid, replace(one, by_length=None), self_attention)
    assert not np.allclose(want[real], plain[real], atol=1e-3)


def test_sites_share_the_factor_of_a_length() -> None:
    """A second site adds a product only; one with other factors looks up its own."""
    one = replace(detector(False, False, 0, ()), by_length=np.float32([(2, 2.0), (9, 0.5)]))
    other = replace(one, by_length=np.float32([(2, 2.0), (9, 0.75)]))

    def operators(*detectors: OneClass) -> Counter[str]:
        model = emitted(
            lambda e: e.op("Sum", *(scores(e, context("by-mask"), one) for one in detectors)), {"a": A, "valid": VALID}
        )
        return Counter(node.op_type for node in model.graph.node)

    plain = replace(one, by_length=None)
    for_one = operators(one, plain) - operators(plain, plain)
    assert for_one.total() == 5 and for_one["Gather"] == 1
    assert operators(one, one) - operators(one, plain) == Counter({"Mul": 1})
    assert (operators(one, other) - operators(one, one))["Gather"] == 1


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
