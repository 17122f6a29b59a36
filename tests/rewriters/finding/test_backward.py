"""From a Softmax back to the product that made its scores."""

from __future__ import annotations

import math

import pytest

from rewriters.finding.backward import Scores, arrival, find_scores
from rewriters.finding.refusals import Ended, Refused
from rewriters.finding.softmax_match import Anchor, read_anchor

from .reading import Reading, read

INPUTS = (
    "float[2,3,Q,4] q, float[2,3,4,K] k, float[2,1,Q,K] m, float[2,Q,4] t, float[2,1,Q,4] n, float[2,1,4,K] l, bool c,"
    " float[2,3,Q,K] other, float[2,Q,1,8] a, float[2,1,K,8] b, float[2,4,Q] turned, float[2,8,9,9] picture,"
    " float[2,Q,1] rows, float[2,1,K] columns, float[2,4,6] tokens"
)
NUMBERS = {"w": (4, 5), "learned": (2, 6, 4), "vector": (8, 1), "kernel": (1, 8, 1, 1), "u": (4, 4), "line": (8,)}
CONSTANTS = ", ".join(
    f"float[{','.join(map(str, shape))}] {name} = {{{','.join('1' for _ in range(math.prod(shape)))}}}"
    for name, shape in NUMBERS.items()
)


def found(nodes: str) -> tuple[Reading, Scores | Refused]:
    graph = read(INPUTS, nodes, constants=CONSTANTS)
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    return graph, find_scores(graph.view, graph.facts, anchor)


SOFTMAX = "p = Softmax<axis = -1>"

# nodes → product, its factors, operators on the way, words: learned, additive, matrix
FOUND = {
    "at once": (f"x = MatMul(q, k) {SOFTMAX}(x)", "x", "q k", "", "matrix"),
    "scaled and masked": (
        f"x = MatMul(q, k) s = Mul(x, u1) y = Add(s, m) {SOFTMAX}(y)",
        "x",
        "q k",
        "Mul Add",
        "matrix",
    ),
    "masked in front": (f"x = MatMul(q, k) y = Add(m, x) {SOFTMAX}(y)", "x", "q k", "Add", "matrix"),
    "chosen": (f"x = MatMul(q, k) d = IsNaN(m) y = Where(d, m, x) {SOFTMAX}(y)", "x", "q k", "Where", "matrix"),
    "the nearest": (
        f"x = MatMul(q, k) y = Tanh(x) z = MatMul(y, other2) {SOFTMAX}(z)",
        "z",
        "y other2",
        "",
        "matrix",
    ),
    "the nearer of two": (
        f"x = MatMul(q, k) r = Relu(x) y = MatMul(q, k) z = Add(r, y) {SOFTMAX}(z)",
        "y",
        "q k",
        "Add",
        "matrix",
    ),
    "the one with heads": (
        f"x = MatMul(q, k) r = Tanh(x) y = MatMul(n, l) z = Add(y, r) {SOFTMAX}(z)",
        "x",
        "q k",
        "Tanh Add",
        "matrix",
    ),
    "the nearest of two without heads": (
        f"x = MatMul(n, l) r = Tanh(x) y = MatMul(n, l) z = Add(r, y) {SOFTMAX}(z)",
        "y",
        "n l",
        "Add",
        "matrix",
    ),
    "behind a part": (f"x = MatMul(q, k) y, z = Split<axis = -1>(x) {SOFTMAX}(y)", "x", "q k", "Split", "matrix"),
    "second part of a Concat": (
        f"x = MatMul(q, k) y = Concat<axis = -1>(m1, x) {SOFTMAX}(y)",
        "x",
        "q k",
        "Concat",
        "matrix",
    ),
    "learned queries": (f"x = MatMul(learned, tokens) {SOFTMAX}(x)", "x", "learned tokens", "", "learned matrix"),
    "additive": (
        f"s = Add(a, b) h = Tanh(s) y = MatMul(h, vector) z = Squeeze(y, last) {SOFTMAX}(z)",
        "y",
        "a b",
        "Squeeze",
        "additive matrix",
    ),
    "additive, a line": (
        f"s = Add(a, b) h = Tanh(s) y = MatMul(h, line) {SOFTMAX}(y)",
        "y",
        "a b",
        "",
        "additive matrix",
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_found(case: str) -> None:
    nodes, product, factors, path, words = FOUND[case]
    constants = f"{CONSTANTS}, int64[1] last = {{-1}}, float u1 = {{2}}"
    graph = read(f"{INPUTS}, float[2,3,K,K] other2, float[2,3,Q,1] m1", nodes, constants=constants)
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    scores = find_scores(graph.view, graph.facts, anchor)
    assert isinstance(scores, Scores)
    assert scores.node is graph.node(product)
    assert [scores.operands.first, scores.operands.second] == [graph[name] for name in factors.split()]
    assert [node.op_type for node in scores.path] == path.split()
    assert (scores.learned, scores.additive, scores.matrix) == tuple(
        word in words.split() for word in ("learned", "additive", "matrix")
    )


# nodes → code, detail, node that ends it
NOT_FOUND = {
    "a class head": (f"x = MatMul(q, w) {SOFTMAX}(x)", "constant-scores", "MatMul with a constant weight", "x"),
    "a class head, weight first": (
        f"x = MatMul(u, turned) {SOFTMAX}(x)",
        "constant-scores",
        "MatMul with a constant weight",
        "x",
    ),
    "learned keys that are normalized over other axes": (
        f"x = MatMul(t, learned4) {SOFTMAX}(x)",
        "constant-scores",
        "MatMul with a constant weight",
        "x",
    ),
    "pooled by a learned line": (
        f"x = MatMul(q, line4) {SOFTMAX}(x)",
        "constant-scores",
        "MatMul with a constant weight",
        "x",
    ),
    "two constants": (f"x = MatMul(u, u) {SOFTMAX}(x)", "no-scores", "MatMul", None),
    "an input times a constant": (
        f"c1 = Constant<value_float = 2.0>() x = Mul(c1, m) {SOFTMAX}(x)",
        "no-scores",
        "Mul",
        None,
    ),
    "a convolution": (f"x = Conv(picture, kernel) {SOFTMAX}(x)", "constant-scores", "Conv", "x"),
    "an input": (f"{SOFTMAX}(m)", "no-scores", "a graph input", None),
    "an input, moved": (f"x = Transpose<perm = [0,1,3,2]>(m) {SOFTMAX}(x)", "no-scores", "Transpose", None),
    "an operator": (f"x = Sin(m) y = Neg(x) {SOFTMAX}(y)", "scores-form", "Sin", "x"),
    "a stranger": (f"x = local.Strange(m) {SOFTMAX}(x)", "scores-form", "Strange", "x"),
    "sizes": (f"z = Shape(m) x = Cast<to = 1>(z) {SOFTMAX}(x)", "no-scores", "Cast", "z"),
}


@pytest.mark.parametrize("case", NOT_FOUND)
def test_not_found(case: str) -> None:
    nodes, code, detail, node = NOT_FOUND[case]
    ones = ",".join("1" * 64)
    graph = read(
        INPUTS, nodes, constants=f"{CONSTANTS}, float[2,4,8] learned4 = {{{ones}}}, float[4] line4 = {{1,2,3,4}}"
    )
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    ended = find_scores(graph.view, graph.facts, anchor)
    assert isinstance(ended, Ended)
    assert (ended.code, ended.detail) == (code, detail)
    assert ended.node is (None if node is None else graph.node(node))


def test_the_path_of_an_end_is_in_execution_order() -> None:
    graph, ended = found(f"x = Sin(m) y = Neg(x) z = Abs(y) {SOFTMAX}(z)")
    assert isinstance(ended, Ended)
    assert ended.path == (graph.node("y"), graph.node("z"))
    graph, ended = found(f"x = MatMul(q, w) y = Neg(x) {SOFTMAX}(y)")
    assert isinstance(ended, Ended) and ended.path == (graph.node("y"),)


def test_the_nearest_projection_is_named() -> None:
    _, ended = found(f"x = Conv(picture, kernel) r = Abs(x) y = MatMul(q, w) z = Add(y, r) {SOFTMAX}(z)")
    assert isinstance(ended, Refused) and ended.detail == "MatMul with a constant weight"


def test_out_of_a_branch() -> None:
    nodes = (
        "y = If (c) <then_branch = f () => (float[2,3,Q,K] s) { s = MatMul(q, k) }, else_branch = g () =>"
        f" (float[2,3,Q,K] e) {{ e = Identity(other) }}> {SOFTMAX}(y)"
    )
    graph, scores = found(nodes)
    assert isinstance(scores, Scores) and scores.node is graph.node("s")


SUMMED = "g = ReduceSum(q, last) j = ReduceSum(k2, last) h = Transpose<perm = [0,1,3,2]>(j) x = Add(g, h)"


def test_a_sum_of_a_number_of_each_query_and_one_of_each_key() -> None:
    graph = read(f"{INPUTS}, float[2,3,K,4] k2", f"{SUMMED} {SOFTMAX}(x)", constants="int64[1] last = {-1}")
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    scores = find_scores(graph.view, graph.facts, anchor)
    assert isinstance(scores, Scores)
    assert (scores.node, scores.additive, scores.matrix) == (graph.node("x"), True, False)
    assert (scores.operands.first, scores.operands.second) == (graph["g"], graph["h"])


def test_such_a_sum_under_an_activation_is_no_attention() -> None:
    """Any two layers of a network may be added before it."""
    graph = read(f"{INPUTS}, float[2,3,K,4] k2", f"{SUMMED} p = Relu(x)", constants="int64[1] last = {-1}")
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor) and anchor.element_wise
    assert not isinstance(find_scores(graph.view, graph.facts, anchor), Scores)


def test_a_product_goes_before_a_sum() -> None:
    nodes = f"{SUMMED} y = MatMul(q, k) e = Tanh(y) u = Tanh(e) z = Add(x, u) {SOFTMAX}(z)"
    graph = read(f"{INPUTS}, float[2,3,K,4] k2", nodes, constants="int64[1] last = {-1}")
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    scores = find_scores(graph.view, graph.facts, anchor)
    assert isinstance(scores, Scores) and scores.node is graph.node("y")


def test_a_sum_over_features_of_products() -> None:
    nodes = f"m1 = Mul(a, b) x = ReduceSum<keepdims = 0>(m1, last) {SOFTMAX}(x)"
    graph = read(INPUTS, nodes, constants="int64[1] last = {-1}")
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    scores = find_scores(graph.view, graph.facts, anchor)
    assert isinstance(scores, Scores)
    assert (scores.node, scores.additive, scores.matrix) == (graph.node("x"), True, False)
    assert (scores.operands.first, scores.operands.second) == (graph["a"], graph["b"])


@pytest.mark.parametrize(
    ("path", "start", "expected"),
    [
        ("", -1, -1),
        ("y = Transpose<perm = [0,1,3,2]>(x)", -1, -2),
        ("y = Transpose<perm = [0,1,3,2]>(x)", -2, -1),
        ("y = Tanh(x)", -2, -2),
        ("z = Tanh(x) y = Transpose<perm = [0,2,1,3]>(z)", -2, -3),
        ("y = Flatten<axis = 3>(x)", -2, None),
        ("y = Sub(other, x)", -1, -1),
    ],
)
def test_where_an_axis_arrives(path: str, start: int, expected: int | None) -> None:
    graph = read(
        f"{INPUTS}, float[2,3,4,5] z5, float[2,3,6,4] q6",
        f"x = MatMul(q6, z5) {path}".replace("other", "o65"),
        constants="float[2,3,6,5] o65 = {" + ",".join("1" * 180) + "}",
    )
    nodes = tuple(node for node in graph.view.homes if node.op_type != "MatMul")
    assert arrival(graph.view, graph.facts, graph.node("x"), nodes, start) == expected
