"""Products whose own operators stay."""

from __future__ import annotations

import pytest

from rewriters.finding.kept import Factor, KeptProduct, Summed, read_divided, read_summed

from .reading import read

INPUTS = "float[2,3,Q,K] s, float[2,3,K,4] v, float[2,3,K] lead, float[2,3,K,Q] s2, float[2,3,4,K] v2"
CONSTANTS = "int64[1] m1 = {-1}, int64[1] m2 = {-2}, float[2,3,K2,4] c"

# nodes, the factor that is the map, its key axis → the quotient
DIVIDED = {
    "divided": ("e = Exp(s) t = ReduceSum(e, m1) o = MatMul(e, v) y = Div(o, t)", 0, -1, "y"),
    "times the reciprocal": (
        "e = Exp(s) t = ReduceSum(e, m1) r = Reciprocal(t) o = MatMul(e, v) y = Mul(o, r)",
        0,
        -1,
        "y",
    ),
    "values first": ("e = Exp(s2) t = ReduceSum(e, m2) o = MatMul(v2, e) y = Div(o, t)", 1, -2, "y"),
    "other axis": ("e = Exp(s) t = ReduceSum(e, m1) o = MatMul(e, v) y = Div(o, t)", 0, -2, None),
    "other sums": ("e = Exp(s) f = Relu(s) t = ReduceSum(f, m1) o = MatMul(e, v) y = Div(o, t)", 0, -1, None),
    "no sums": ("e = Exp(s) t = ReduceMax<axes = [-1]>(e) o = MatMul(e, v) y = Div(o, t)", 0, -1, None),
    "read twice": ("e = Exp(s) t = ReduceSum(e, m1) o = MatMul(e, v) y = Div(o, t) z = Relu(o)", 0, -1, None),
    "not read": ("e = Exp(s) t = ReduceSum(e, m1) o = MatMul(e, v)", 0, -1, None),
    "the divisor": ("e = Exp(s) t = ReduceSum(e, m1) o = MatMul(e, v) y = Div(t, o)", 0, -1, None),
}


@pytest.mark.parametrize("case", DIVIDED)
def test_divided(case: str) -> None:
    nodes, side, axis, quotient = DIVIDED[case]
    graph = read(INPUTS, nodes, constants="int64[1] m1 = {-1}, int64[1] m2 = {-2}")
    found = read_divided(graph.view, graph.facts, graph.node("o"), side, axis)
    values = graph["v2" if side else "v"]
    expected = None if quotient is None else KeptProduct("divided", Factor(graph["e"]), Factor(values), graph[quotient])
    assert found == expected


def test_a_product_that_leaves_the_graph_is_no_numerator() -> None:
    nodes = "e = Exp(s) t = ReduceSum(e, m1) o = MatMul(e, v) y = Div(o, t)"
    graph = read(INPUTS, nodes, outputs="float[2,3,Q,4] o", constants="int64[1] m1 = {-1}")
    assert read_divided(graph.view, graph.facts, graph.node("o"), 0, -1) is None


def test_a_quotient_in_another_body_is_not_taken() -> None:
    nodes = (
        "e = Exp(s) t = ReduceSum(e, m1) o = MatMul(e, v) z = If (c) <then_branch = a () => (float[2,3,Q,4] y) {"
        " y = Div(o, t) }, else_branch = b () => (float[2,3,Q,4] w) { w = Relu(v) }>"
    )
    graph = read(f"bool c, {INPUTS}", nodes, constants="int64[1] m1 = {-1}")
    assert read_divided(graph.view, graph.facts, graph.node("o"), 0, -1) is None


AXES = "int64[1] m1 = {-1}, int64[1] m2 = {-2}, int64[1] m3 = {-3}, int64[1] one = {1}, int64[2] two = {-1,-2}"
MAP, VALUES = "float[2,Q,K] p", "float[2,K,4] v"
SUMMED_INPUTS = f"{MAP}, {VALUES}, float[2,Q,K,1] p4, float[2,1,K,4] v4, float[2,Q,K,4] full"

# nodes, operand that is the map, its key axis → axes of query, key and width, or a word of the refusal, or None
SUMMED = {
    "first": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2)",
        0,
        -2,
        (1, 2, 3),
    ),
    "second": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(b, a) y = ReduceSum<keepdims = 0>(m, m2)",
        1,
        -2,
        (1, 2, 3),
    ),
    "summed from the left": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, m3) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, at2)",
        0,
        -2,
        (1, 2, 3),
    ),
    "over another axis": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m1)",
        0,
        -2,
        None,
    ),
    "over two axes": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, two)",
        0,
        -2,
        None,
    ),
    "no sum": ("a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b)", 0, -2, None),
    "the greatest": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceMax<keepdims = 0, axes = [-2]>(m)",
        0,
        -2,
        None,
    ),
    "an Add": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Add(a, b) y = ReduceSum<keepdims = 0>(m, m2)",
        0,
        -2,
        None,
    ),
    "query rows": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m3)",
        0,
        -3,
        None,
    ),
    "no query rows": ("a = Unsqueeze(p, m1) m = Mul(a, full) y = ReduceSum<keepdims = 0>(m, m2)", 0, -2, None),
    "no width": ("b = Unsqueeze(v, one) m = Mul(full, b) y = ReduceSum<keepdims = 0>(m, m2)", 0, -2, None),
    "kept": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum<keepdims = 1>(m, m2)",
        0,
        -2,
        "Unsqueeze",
    ),
    "kept by default": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum(m, m2)",
        0,
        -2,
        "Unsqueeze",
    ),
    "summed twice": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2)"
        " z = ReduceSum<keepdims = 0>(m, m2)",
        0,
        -2,
        "Unsqueeze",
    ),
    "read elsewhere": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2) z = Relu(m)",
        0,
        -2,
        "Unsqueeze",
    ),
    "map as it is": ("b = Unsqueeze(v, one) m = Mul(p4, b) y = ReduceSum<keepdims = 0>(m, m2)", 0, -2, "Unsqueeze"),
    "values as they are": (
        "a = Unsqueeze(p, m1) m = Mul(a, v4) y = ReduceSum<keepdims = 0>(m, m2)",
        0,
        -2,
        "Unsqueeze",
    ),
    "two axes added": (
        "a = Unsqueeze(p, m1) b = Unsqueeze(w, two) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2)",
        0,
        -2,
        None,
    ),
    "the values lack another axis than the query rows": (
        "a = Unsqueeze(p5, m1) b = Unsqueeze(v5, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2)",
        0,
        -2,
        "axes other than",
    ),
    "the map lacks another axis than the width": (
        "a = Unsqueeze(p6, one) b = Unsqueeze(v5, m3) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2)",
        0,
        -2,
        "axes other than",
    ),
}


@pytest.mark.parametrize("case", SUMMED)
def test_summed(case: str) -> None:
    nodes, index, axis, expected = SUMMED[case]
    inputs = f"{SUMMED_INPUTS}, float[K,4] w, float[2,1,Q,K] p5, float[2,Q,K,1] p6, float[2,1,K,4] v5"
    graph = read(inputs, nodes, constants=f"{AXES}, int64[1] at2 = {{2}}")
    found = read_summed(graph.view, graph.facts, graph.node("m"), index, axis)
    if isinstance(expected, tuple):
        query, key, width = expected
        assert found == Summed(graph.node("y"), graph["p"], graph["v"], 4, query, key, width)
    else:
        assert found is None if expected is None else isinstance(found, str) and expected in found


def test_constant_values_are_not_summed() -> None:
    constants = f"{AXES}, float[1,2,2] c = {{1,2,3,4}}"
    nodes = "a = Unsqueeze(p, m1) b = Unsqueeze(c, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2)"
    graph = read("float[1,Q,2] p", nodes, constants=constants)
    assert read_summed(graph.view, graph.facts, graph.node("m"), 0, -2) is None


@pytest.mark.parametrize(("map_shape", "values_shape"), [("", "2,K,4"), ("2,Q,K", "")])
def test_factors_of_unknown_shape_are_not_summed(map_shape: str, values_shape: str) -> None:
    nodes = "a = Unsqueeze(p, m1) b = Unsqueeze(v, one) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2)"
    graph = read(f"float[{map_shape}] p, float[{values_shape}] v", nodes, constants=AXES)
    assert read_summed(graph.view, graph.facts, graph.node("m"), 0, -2) is None


def test_factors_of_unequal_rank() -> None:
    """The values broadcast along the samples, too."""
    nodes = "a = Unsqueeze(p, m1) b = Unsqueeze(v, zero) m = Mul(a, b) y = ReduceSum<keepdims = 0>(m, m2)"
    graph = read("float[2,Q,K] p, float[K,4] v", nodes, constants=f"{AXES}, int64[1] zero = {{0}}")
    found = read_summed(graph.view, graph.facts, graph.node("m"), 0, -2)
    assert isinstance(found, str)
