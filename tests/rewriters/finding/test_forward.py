"""Where a map goes."""

from __future__ import annotations

import pytest

from rewriters.finding.forward import Hit, follow_map
from rewriters.finding.softmax_match import Anchor, read_anchor

from .reading import Reading, read

INPUTS = (
    "float[2,3,Q,K] x, float[2,3,K,4] v, float[2,3,Q,K] m, float[2,3,Q,K] other, float[2,6,K,4] v6, float[2,3,Q,1] b,"
    " int64[3] order, float[2,3,8,8] sq, bool c, float[2,1,Q,K] wide, float[2,3,1,K] q1, float[2,3,K,1] v1"
)
CONSTANTS = "float[1,1,2,2] kernel = {1,2,3,4}, float low = {-1}, int64[1] two = {2}, int64[1] a1 = {1}"


def followed(nodes: str, outputs: str = "float[?] unused") -> tuple[Reading, list[Hit], list[tuple[str, str]]]:
    graph = read(INPUTS, f"p = Softmax<axis = -1>(x) {nodes}", outputs, CONSTANTS)
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    outcome = follow_map(graph.view, graph.facts, anchor)
    return graph, outcome.hits, [(end.code, end.detail) for end in outcome.ends]


# nodes → the operators on the way to the product o
HITS = {
    "at once": ("o = MatMul(p, v)", ""),
    "dropped out": ("d = Dropout(p) o = MatMul(d, v)", "Dropout"),
    "masked": ("d = Mul(p, m) e = Cast<to = 1>(d) o = MatMul(e, v)", "Mul Cast"),
    "guarded": ("n = IsNaN(p) d = Where(n, low, p) o = MatMul(d, v)", "Where"),
    "stacked maps": ("r = Softmax<axis = -1>(other) s = Concat<axis = 1>(p, r) o = MatMul(s, v6)", "Concat"),
    "stacked maps of sigmoids": (
        "r = Sigmoid(other) t = Identity(r) s = Concat<axis = 1>(p, t) o = MatMul(s, v6)",
        "Concat",
    ),
    "stacked with a chosen map": (
        "r = Exp(other) n = IsNaN(other) t = Where(n, r, r) s = Concat<axis = 1>(p, t) o = MatMul(s, v6)",
        "Concat",
    ),
    "a part": ("s, t = Split<axis = 1>(wide6) d = Add(p, s) o = MatMul(d, v)", "Add"),
    "subtracted, then absolute": ("d = Sub(p, m) e = Abs(d) o = MatMul(e, v)", "Sub Abs"),
    "subtracted, then cut off": ("d = Sub(p, m) e = Relu(d) o = MatMul(e, v)", "Sub Relu"),
}


@pytest.mark.parametrize("case", [case for case in HITS if case != "a part"])
def test_a_product(case: str) -> None:
    nodes, path = HITS[case]
    graph, (hit,), ends = followed(nodes)
    assert hit.product.node is graph.node("o")
    assert [node.op_type for node in hit.path] == path.split()
    assert hit.product.kept is None and not hit.assumed and not ends
    assert hit.stacked is ("Concat" in path)


@pytest.mark.parametrize(
    ("nodes", "signed"),
    [
        ("d = Sub(p, m) o = MatMul(d, v)", True),
        ("d = Sub(m, p) o = MatMul(d, v)", True),
        ("d = Neg(p) e = Cast<to = 1>(d) o = MatMul(e, v)", True),
        ("d = Abs(p) e = Sub(d, m) o = MatMul(e, v)", True),
        ("d = Neg(p) e = Abs(d) o = MatMul(e, v)", False),
    ],
)
def test_a_difference_of_maps_is_taken_apart(nodes: str, signed: bool) -> None:
    graph, (hit,), _ = followed(nodes)
    kept = hit.product.kept
    assert (kept is not None) is signed
    if kept is not None:
        assert kept.form == "signed" and kept.output is graph["o"]
        assert kept.probabilities.value is graph.node("o").inputs[0] and kept.values.value is graph["v"]


# nodes → where it ends
ENDS = {
    "nowhere": ("n = Shape(p)", []),
    "looked at": ("n = Greater(p, m)", []),
    "of itself": ("o = MatMul(p, p)", [("own-values", "MatMul of the map with itself")] * 2),
    "constant values": ("o = MatMul(p, kernel)", [("constant-values", "MatMul with a constant factor")]),
    "constant values, then values": (
        "o = MatMul(p, kernel) y = MatMul(o, v)",
        [("mixed-map", "MatMul with a constant factor, before a product with values")],
    ),
    "along another axis": (
        "t = Transpose<perm = [0,1,3,2]>(p) o = MatMul(t, other)",
        [("axis", "MatMul contracts axis -1 of the map, the Softmax normalizes axis -2")],
    ),
    "an operator": ("o = Sin(p)", [("no-product", "Sin")]),
    "an operator, then a product": ("o = Sin(p) y = MatMul(o, v)", [("no-product", "Sin")]),
    "convolved": ("o = Conv(p, kernel)", [("no-product", "Conv")]),
    "convolved, then a product": ("o = CumSum(p, a1) y = MatMul(o, v)", [("mixed-map", "CumSum")]),
    "normalized, cast, then a product": (
        "o = LayerNormalization(p, b) z = Relu(o) y = MatMul(z, v)",
        [("mixed-map", "LayerNormalization")],
    ),
    "a stranger": ("o = local.Strange(p)", [("unknown-operator", "local.Strange")]),
    "one of onnxruntime": ("o = com.microsoft.FastGelu(p)", [("no-product", "FastGelu")]),
    "columns chosen": (
        "o = Gather<axis = -1>(p, order)",
        [("no-product", "Gather merges or splits the normalized axis")],
    ),
    "split along the columns": ("s, t = Split<axis = -1>(p) y = MatMul(s, v)", [("lost-axis", "Split")]),
    "stacked with no map": ("s = Concat<axis = 1>(p, other) o = MatMul(s, v6)", [("no-product", "Concat")]),
    "stacked with another layer": (
        "r = Tanh(other) s = Concat<axis = 1>(p, r) o = MatMul(s, v6)",
        [("no-product", "Concat")],
    ),
    "a scaled product of a difference": (
        "d = Sub(p, m) o = com.microsoft.FusedMatMul<alpha = 2.0>(d, v)",
        [("signed-map", "FusedMatMul of a difference")],
    ),
    "a quantized difference": (
        "d = Sub(p, m) z, s, t = DynamicQuantizeLinear(d) f = DequantizeLinear(z, s, t) o = MatMul(f, v)",
        [("signed-map", "MatMul of a difference")],
    ),
    "the best": ("o, i = TopK(p, two)", [("no-product", "TopK")]),
}


@pytest.mark.parametrize("case", ENDS)
def test_an_end(case: str) -> None:
    nodes, ends = ENDS[case]
    _, hits, found = followed(nodes)
    assert not hits and found == ends


def test_an_output_of_the_graph() -> None:
    assert followed("", "float[2,3,Q,K] p")[2] == [("output", "an output of the graph")]


def test_what_a_classifier_does_besides_its_output_says_nothing() -> None:
    nodes = "o = ArgMax<axis = 3>(p) z = Sin(p)"
    assert followed(nodes, "float[2,3,Q,K] p")[2] == [("output", "an output of the graph"), ("no-product", "Sin")]


def test_an_output_that_enters_a_product_too() -> None:
    _, hits, ends = followed("o = MatMul(p, v)", "float[2,3,Q,K] p")
    assert len(hits) == 1 and ends == [("output", "an output of the graph")]


def test_two_products() -> None:
    graph, hits, _ = followed("o = MatMul(p, v) d = Identity(p) y = MatMul(d, v)")
    assert [hit.product.node for hit in hits] == [graph.node("o"), graph.node("y")]


def test_parts_of_a_split_are_all_followed() -> None:
    nodes = "s, t = Split<axis = 0>(p) o = MatMul(s, v) y = MatMul(t, v)"
    graph, hits, _ = followed(nodes)
    assert [hit.product.node for hit in hits] == [graph.node("o"), graph.node("y")]


def test_out_of_a_branch_and_into_a_function() -> None:
    nodes = (
        "a = If (c) <then_branch = f () => (float[2,3,Q,K] t) { t = Relu(p) }, else_branch = g () =>"
        " (float[2,3,Q,K] e) { e = Relu(other) }> o = MatMul(a, v)"
    )
    graph, (hit,), ends = followed(nodes)
    assert hit.product.node is graph.node("o") and not ends


def test_out_of_a_loop_body_nothing_is_followed() -> None:
    nodes = (
        "n = Constant<value_int = 2>() a = Loop(n, c) <body = f (int64 i, bool go) => (bool g, float[2,3,Q,K] t)"
        " { g = Identity(go) t = Relu(p) }>"
    )
    _, hits, ends = followed(nodes)
    assert not hits and ends == [("no-product", "an output of a Loop or Scan body")]


def test_an_assumption_on_the_way_is_kept() -> None:
    _, (hit,), _ = followed("s = local.Strange(x) d = Mul(p, s) o = MatMul(d, v)")
    assert hit.assumed
