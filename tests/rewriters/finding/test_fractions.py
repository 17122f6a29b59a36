"""Divisions by the sum of a row."""

from __future__ import annotations

import pytest

from rewriters.finding.fractions import divided_by, fraction, row_sum, summed_axis, through
from rewriters.finding.refusals import Refused

from .reading import read

INPUTS = "float[2,3,Q,K] x, float small, float[2,3,Q,K] w"
CONSTANTS = (
    "int64[1] m1 = {-1}, int64[1] m2 = {-2}, int64[1] three = {3}, int64[1] two = {2}, int64[2] both = {2,3}, int64[1]"
    " zero = {0}"
)


def test_through_looks_past_first_inputs() -> None:
    graph = read(INPUTS, "a = Exp(x) b = Cast<to = 1>(a) y = Add(b, w)", constants=CONSTANTS)
    assert through(graph["y"], ("Add", "Cast")) is graph.node("a")
    assert through(graph["y"], ("Cast",)) is graph.node("y")
    assert through(graph["y"], ("Add", "Cast", "Exp")) is None
    assert through(None, ("Add",)) is None


@pytest.mark.parametrize(
    ("nodes", "numerator", "denominator"),
    [
        ("a = Exp(x) d = Abs(w) y = Div(a, d)", "a", "d"),
        ("a = Exp(x) d = Abs(w) r = Reciprocal(d) y = Mul(a, r)", "a", "d"),
        ("a = Exp(x) d = Abs(w) r = Reciprocal(d) y = Mul(r, a)", "a", "d"),
        ("a = Exp(x) d = Abs(w) y = Mul(a, d)", None, None),
        ("y = Mul(x, w)", None, None),
    ],
)
def test_fraction(nodes: str, numerator: str | None, denominator: str | None) -> None:
    graph = read(INPUTS, nodes)
    top, bottom = fraction(graph.node("y"))
    assert top is (None if numerator is None else graph.node(numerator))
    assert bottom is (None if denominator is None else graph[denominator])


@pytest.mark.parametrize(
    ("node", "found"),
    [
        ("Div(a, d)", "d"),
        ("Div(d, a)", None),
        ("Mul(a, r)", "d"),
        ("Mul(r, a)", None),
        ("Mul(a, d)", None),
        ("Sub(a, r)", None),
    ],
)
def test_what_a_value_is_divided_by(node: str, found: str | None) -> None:
    graph = read(INPUTS, f"a = Exp(x) d = Abs(w) r = Reciprocal(d) y = {node}")
    assert divided_by(graph.node("y"), graph["a"]) is (None if found is None else graph[found])


@pytest.mark.parametrize(
    ("nodes", "whether"),
    [
        ("d = ReduceSum(x, m1)", True),
        ("t = ReduceSum(x, m1) d = Add(t, small)", True),
        ("t = ReduceSum(x, m1) e = Max(t, small) d = Cast<to = 1>(e)", True),
        ("d = ReduceMax<axes = [-1]>(x)", False),
        ("t = ReduceSum(x, m1) d = Sqrt(t)", False),
        ("d = Identity(x)", False),
    ],
)
def test_the_sum_that_a_divisor_is(nodes: str, whether: bool) -> None:
    graph = read(INPUTS, nodes, constants=CONSTANTS)
    total = row_sum(graph["d"])
    assert (total is not None) is whether
    assert total is None or total.op_type == "ReduceSum"


# the sum t, the divisor d → the axis, or the code of a refusal
SUMS = {
    "kept": ("t = ReduceSum(x, m1) d = Identity(t)", -1),
    "kept by saying so": ("t = ReduceSum<keepdims = 1>(x, m1) d = Identity(t)", -1),
    "rows": ("t = ReduceSum(x, m2) d = Identity(t)", -2),
    "from the left": ("t = ReduceSum(x, three) d = Identity(t)", -1),
    "the first": ("t = ReduceSum(x, zero) d = Identity(t)", -4),
    "two axes": ("t = ReduceSum(x, both) d = Identity(t)", "flatten"),
    "all axes": ("t = ReduceSum(x) d = Identity(t)", "flatten"),
    "not kept": ("t = ReduceSum<keepdims = 0>(x, m1) d = Identity(t)", "axis"),
    "given back": ("t = ReduceSum<keepdims = 0>(x, m1) d = Unsqueeze(t, m1)", -1),
    "given back, guarded": (
        "t = ReduceSum<keepdims = 0>(x, m1) e = Add(t, small) f = Unsqueeze(e, m1) d = Max(f, small)",
        -1,
    ),
    "given back, from the left": ("t = ReduceSum<keepdims = 0>(x, m1) d = Unsqueeze(t, three)", -1),
    "given back in another place": ("t = ReduceSum<keepdims = 0>(x, m1) d = Unsqueeze(t, m2)", "axis"),
    "given back in another place, from the left": (
        "t = ReduceSum<keepdims = 0>(x, m1) d = Unsqueeze(t, two)",
        "axis",
    ),
    "given back in front": ("t = ReduceSum<keepdims = 0>(x, m1) d = Unsqueeze(t, zero)", "axis"),
    "the first given back": ("t = ReduceSum<keepdims = 0>(x, zero) d = Unsqueeze(t, zero)", -4),
    "two given back": ("t = ReduceSum<keepdims = 0>(x, three) d = Unsqueeze(t, back)", "axis"),
    "given back behind something else": (
        "t = ReduceSum<keepdims = 0>(x, m1) e = Unsqueeze(t, m1) d = Sqrt(e)",
        "axis",
    ),
}


@pytest.mark.parametrize("case", SUMS)
def test_summed_axis(case: str) -> None:
    nodes, expected = SUMS[case]
    graph = read(INPUTS, nodes, constants=f"{CONSTANTS}, int64[2] back = {{-1,0}}")
    found = summed_axis(graph.facts, graph.node("t"), graph["d"], graph["x"])
    assert (found.code if isinstance(found, Refused) else found) == expected


@pytest.mark.parametrize(
    ("axis", "known", "expected"), [("m1", "unknown", -1), ("three", "unknown", "rank"), ("three", "w", -1)]
)
def test_an_axis_from_the_left_needs_a_rank(axis: str, known: str, expected: int | str) -> None:
    graph = read(f"float[] unknown, {INPUTS}", f"t = ReduceSum(unknown, {axis}) d = Identity(t)", constants=CONSTANTS)
    found = summed_axis(graph.facts, graph.node("t"), graph["d"], graph[known])
    assert (found.code if isinstance(found, Refused) else found) == expected


@pytest.mark.parametrize(("axis", "expected"), [("m1", -1), ("m2", "axis"), ("zero", "axis")])
def test_an_axis_given_back_where_no_rank_is_known(axis: str, expected: int | str) -> None:
    graph = read("float[] x", f"t = ReduceSum<keepdims = 0>(x, m1) d = Unsqueeze(t, {axis})", constants=CONSTANTS)
    found = summed_axis(graph.facts, graph.node("t"), graph["d"], graph["x"])
    assert (found.code if isinstance(found, Refused) else found) == expected


def test_the_axis_0_of_an_unknown_rank_is_not_known() -> None:
    graph = read("float[] x", "t = ReduceSum(x, zero)", constants=CONSTANTS)
    found = summed_axis(graph.facts, graph.node("t"), graph["t"], graph["x"])
    assert isinstance(found, Refused) and found.code == "rank"
