"""Which columns and rows of a map are real, and what is summed over them."""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.emit import Emitter
from rewriters.subgraphs.context import MapContext

from .emitted import emitted, ran

A = np.random.default_rng(0).uniform(0.1, 1, (2, 3, 4, 5)).astype(np.float32)
SQUARE = np.random.default_rng(1).uniform(0.1, 1, (2, 3, 5, 5)).astype(np.float32)
VALID = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]], bool)
PLAIN, MASKED = MapContext("a", None, self_attention=True), MapContext("a", "valid", self_attention=True)
BOTH = pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])


def sampled_rows(e: Emitter, every: int, probes: tuple[int, ...]) -> str:
    """Stands for what a fused operator gives in place of its map."""
    taken = [*range(0, A.shape[2], every), *probes]
    return e.op("Gather", "a", e.constant(taken, np.int64), axis=2)


SOME = MapContext("", None, self_attention=True, some_rows=sampled_rows)


def test_mean_over_heads() -> None:
    np.testing.assert_allclose(ran(PLAIN.head_mean, a=A), A.mean(1), rtol=1e-6)


@BOTH
def test_padding_as_numbers(conditional: bool) -> None:
    got = ran(lambda e: str(MASKED.valid_float(e)), valid=VALID, conditional=conditional)
    assert got.dtype == np.float32 and (got == VALID).all()


def test_padding_is_made_numbers_once() -> None:
    def twice(e: Emitter) -> str:
        assert MASKED.valid_float(e) == MASKED.valid_float(e)
        assert PLAIN.valid_float(e) is None
        first, again = (MASKED.length(e, "valid_number") for _ in range(2))
        assert first == again
        return e.op("Identity", "valid")

    assert [node.op_type for node in emitted(twice, {"valid": VALID}).graph.node] == ["Cast", "ReduceSum", "Identity"]


@BOTH
def test_length(conditional: bool) -> None:
    got = ran(lambda e: MASKED.length(e, MASKED.valid_float(e)), valid=VALID, conditional=conditional)
    assert got.tolist() == [[5], [3]]
    got = ran(lambda e: PLAIN.length(e, None), a=A, conditional=conditional)
    assert got.tolist() == [5] and got.dtype == np.float32


def test_a_value_for_all_columns_gets_their_shape() -> None:
    got = ran(lambda e: PLAIN.per_column(e, "x"), a=A, x=np.float32([[3], [4]]))
    assert (got == [[3] * 5, [4] * 5]).all() and got.shape == (2, 5)


def test_no_columns() -> None:
    for context, arrays in ((PLAIN, {"a": A}), (MASKED, {"valid": VALID})):
        got = ran(context.no_columns, **arrays)
        assert got.shape == (2, 5) and got.dtype == bool and not got.any()


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("probes", [(), (0,), (2, 0), (1, 3)], ids=str)
@pytest.mark.parametrize("context", [PLAIN, SOME], ids=["map", "rows"])
def test_sampled_rows_and_probe_rows(context: MapContext, every: int, probes: tuple[int, ...]) -> None:
    found: list[str | None] = []

    def rows(e: Emitter, which: int) -> str:
        pair = context.rows(e, every, probes)
        found[:] = pair
        return str(pair[which])

    np.testing.assert_array_equal(ran(lambda e: rows(e, 0), a=A), A[:, :, ::every])
    if probes:
        np.testing.assert_array_equal(ran(lambda e: rows(e, 1), a=A), A[:, :, list(probes)])
    else:
        assert found[1] is None


def test_rows_of_a_map_that_is_there_are_not_computed_again() -> None:
    both = MapContext("a", None, self_attention=True, some_rows=sampled_rows)
    nodes = emitted(lambda e: both.rows(e, 1, (0,))[1] or "", {"a": A}).graph.node
    assert [(node.op_type, list(node.input)[:1]) for node in nodes] == [("Gather", ["a"])]


def test_probe_rows_among_the_sampled_ones_are_not_computed_twice() -> None:
    nodes = emitted(lambda e: SOME.rows(e, 2, (2,))[1] or "", {"a": A}).graph.node
    assert [node.op_type for node in nodes] == ["Gather", "Gather"]


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("kind", ["plain", "masked", "cross"])
def test_column_means_over_valid_rows_times_the_length(every: int, kind: str) -> None:
    """Padded rows count only where they are known: row i and column i are one token."""
    context = {"plain": PLAIN, "masked": MASKED, "cross": MapContext("a", "valid", self_attention=False)}[kind]

    def emit(e: Emitter) -> str:
        valid = context.valid_float(e)
        length = e.constant(5.0) if valid is None else e.unsqueeze(context.length(e, valid), 2, 3)
        return context.row_sum(e, e.strided("a", 2, every), every, valid, length)

    arrays = {"a": SQUARE} if kind == "plain" else {"a": SQUARE, "valid": VALID}
    rows = VALID if kind == "masked" else np.ones_like(VALID)
    columns = VALID if kind != "plain" else np.ones_like(VALID)
    weights = rows[:, ::every] / rows[:, ::every].sum(1, keepdims=True)
    mean = np.einsum("bhqk,bq->bhk", SQUARE[:, :, ::every].astype(np.float64), weights)
    want = mean * columns.sum(1)[:, None, None]
    np.testing.assert_allclose(ran(emit, **arrays)[:, :, 0], want, rtol=1e-5)


def test_no_valid_row_among_the_sampled_ones_gives_zeros() -> None:
    valid = np.array([[0, 1, 0, 0, 0], [0, 1, 0, 1, 0]], bool)

    def emit(e: Emitter) -> str:
        number = MASKED.valid_float(e)
        return MASKED.row_sum(e, e.strided("a", 2, 2), 2, number, e.constant(1.0))

    assert not ran(emit, a=SQUARE, valid=valid).any()
