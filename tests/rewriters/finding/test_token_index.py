"""An index into a value, over some of its axes."""

from __future__ import annotations

from dataclasses import replace

from rewriters.finding.monomials import ONE, monomial
from rewriters.finding.token_index import Index, all_known, index_of, onto

from .graph_text import read

READING = read("out = Neg(x) z = Unknown(x)", "float[B,S,1,6] x, float[C,D,1,6] y, float[6] v")
X, Y, V, Z = (READING[name] for name in "xyvz")


def test_the_index_of_an_axis() -> None:
    assert index_of(READING.facts, X, 1) == Index(X, (1,), monomial(["S"]), ONE, ())
    assert index_of(READING.facts, X, -1) == index_of(READING.facts, X, 3) == Index(X, (3,), monomial([6]))
    assert index_of(READING.facts, X, -4, ("first",)) == Index(X, (0,), monomial(["B"]), picks=("first",))


def test_an_axis_that_is_not_there_or_has_one_entry_has_no_index() -> None:
    assert [index_of(READING.facts, X, axis) for axis in (2, 4, -5, -2)] == [None] * 4
    assert index_of(READING.facts, Z, 0) is None and index_of(READING.facts, None, 0) is None


def test_onto_axes_of_another_value() -> None:
    index = index_of(READING.facts, X, 1)
    assert index is not None
    assert onto(READING.facts, Y, index, (1,)) == Index(Y, (1,), monomial(["D"]))
    assert onto(READING.facts, Y, index, (0,)) == Index(Y, (0,), monomial(["C"]))
    assert onto(READING.facts, Y, index, (2, 3)) == Index(Y, (2, 3), monomial([6]))
    assert onto(READING.facts, V, index, (0,)) == Index(V, (0,), monomial([6]))


def test_a_part_of_an_axis_keeps_its_size() -> None:
    index = index_of(READING.facts, X, 3)
    assert index is not None
    part = replace(index, size=monomial([3]), inner=monomial([2]))
    assert onto(READING.facts, Y, part, (1,)) == replace(part, value=Y, axes=(1,))


def test_onto_what_is_not_known_or_not_there() -> None:
    index = index_of(READING.facts, X, 1)
    assert index is not None
    assert [onto(READING.facts, value, index, (0,)) for value in (Z, None)] == [None, None]
    assert [onto(READING.facts, Y, index, axes) for axes in ((4,), (-1,), (3, 4), (2, 1))] == [None] * 4
    assert onto(READING.facts, Y, replace(index, value=Z), (0,)) is None


def test_all_known() -> None:
    index = index_of(READING.facts, X, 1)
    assert all_known([index, index]) == [index, index]
    assert all_known([index, None]) is None and all_known([]) == []
