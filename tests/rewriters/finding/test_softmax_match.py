"""What normalizes like a Softmax, or weighs without it."""

from __future__ import annotations

import pytest

from rewriters.finding.refusals import Refused
from rewriters.finding.softmax_match import Anchor, read_anchor

from .reading import Reading, read

INPUTS = "float[2,3,Q,K] x, float[2,3,Q,1] b, float[2,3,Q] y3, float[] u, float one_number, float[2,3,1,1] flat"
CONSTANTS = (
    "int64[1] m1 = {-1}, int64[1] m2 = {-2}, float small = {0.001}, float zero = {0}, float six = {6}, float"
    " huge = {1e31},"
    " int64[1] five = {5}, float[1] zeros = {0}"
)


def anchor_at(nodes: str, opset: int = 17) -> tuple[Reading, Anchor | Refused | None]:
    graph = read(INPUTS, nodes, constants=CONSTANTS, opset=opset)
    return graph, read_anchor(graph.view, graph.facts, graph.node("p"))


EXP = "e = Exp(x) t = ReduceSum(e, m1)"
SHIFTED = "top = ReduceMax<axes = [-1]>(x) z = Sub(x, top) e = Exp(z) t = ReduceSum(e, m1)"

# nodes → scores, axis, form, operators inside, (assumed, tentative, element_wise)
ANCHORS = {
    "softmax": ("p = Softmax(x)", "x", -1, "softmax", "Softmax", ""),
    "softmax over rows": ("p = Softmax<axis = 2>(x)", "x", -2, "softmax", "Softmax", ""),
    "softmax over the first axis": ("p = Softmax<axis = 0>(x)", "x", -4, "softmax", "Softmax", ""),
    "softmax over the furthest axis": ("p = Softmax<axis = -4>(x)", "x", -4, "softmax", "Softmax", ""),
    "softmax of unknown rank": ("p = Softmax<axis = -1>(u)", "u", -1, "softmax", "Softmax", ""),
    "softmax over rows of unknown rank": ("p = Softmax<axis = -2>(u)", "u", -2, "softmax", "Softmax", ""),
    "softmax over axis 3 of unknown rank": ("p = Softmax<axis = 3>(u)", "u", -1, "softmax", "Softmax", "assumed"),
    "softmax over axis 2 of unknown rank": ("p = Softmax<axis = 2>(u)", "u", -1, "softmax", "Softmax", "assumed"),
    "of onnxruntime with a bias": (
        "p = com.microsoft.BiasSoftmax<axis = 3>(x, b)",
        "x",
        -1,
        "bias-softmax",
        "BiasSoftmax",
        "",
    ),
    "of onnxruntime, quantized": (
        "p = com.microsoft.QLinearSoftmax<axis = 2>(x, small, zero, small, zero)",
        "x",
        -2,
        "qlinear-softmax",
        "QLinearSoftmax",
        "",
    ),
    "of onnxruntime, quantized, last axis": (
        "p = com.microsoft.QLinearSoftmax(x, small, zero, small, zero)",
        "x",
        -1,
        "qlinear-softmax",
        "QLinearSoftmax",
        "",
    ),
    "of onnxruntime, quantized, old": (
        "p = com.microsoft.QLinearSoftmax<axis = 3, opset = 12>(x, small, zero, small, zero)",
        "x",
        -1,
        "qlinear-softmax",
        "QLinearSoftmax",
        "",
    ),
    "divided": (f"{EXP} p = Div(e, t)", "x", -1, "decomposed", "Exp Div", ""),
    "divided over rows": ("e = Exp(x) t = ReduceSum(e, m2) p = Div(e, t)", "x", -2, "decomposed", "Exp Div", ""),
    "times the reciprocal": (f"{EXP} r = Reciprocal(t) p = Mul(e, r)", "x", -1, "decomposed", "Exp Mul", ""),
    "guarded": (f"{EXP} g = Add(t, small) p = Div(e, g)", "x", -1, "decomposed", "Exp Div", ""),
    "maximum taken off": (f"{SHIFTED} p = Div(e, t)", "x", -1, "decomposed", "Sub Exp Div", ""),
    "another maximum taken off": (
        "top = ReduceMax<axes = [-1]>(b) z = Sub(x, top) e = Exp(z) t = ReduceSum(e, m1) p = Div(e, t)",
        "z",
        -1,
        "decomposed",
        "Exp Div",
        "",
    ),
    "something taken off": (
        "z = Sub(x, b) e = Exp(z) t = ReduceSum(e, m1) p = Div(e, t)",
        "z",
        -1,
        "decomposed",
        "Exp Div",
        "",
    ),
    "the least taken off": (
        "top = ReduceMin<axes = [-1]>(x) z = Sub(x, top) e = Exp(z) t = ReduceSum(e, m1) p = Div(e, t)",
        "z",
        -1,
        "decomposed",
        "Exp Div",
        "",
    ),
    "exp of a logarithm": (
        "l = LogSoftmax<axis = -1>(x) p = Exp(l)",
        "x",
        -1,
        "log-softmax",
        "LogSoftmax Exp",
        "tentative",
    ),
    "exp of a cast logarithm": (
        "l = LogSoftmax<axis = 3>(x) c = Cast<to = 1>(l) p = Exp(c)",
        "x",
        -1,
        "log-softmax",
        "LogSoftmax Cast Exp",
        "tentative",
    ),
    "the logarithm taken off": (
        "l = ReduceLogSumExp<axes = [-1]>(x) d = Sub(x, l) p = Exp(d)",
        "x",
        -1,
        "logsumexp",
        "Sub Exp",
        "tentative",
    ),
    "the logarithm in three": (
        "e = Exp(x) t = ReduceSum(e, m1) l = Log(t) d = Sub(x, l) p = Exp(d)",
        "x",
        -1,
        "logsumexp",
        "Sub Exp",
        "tentative",
    ),
    "the logarithm around the maximum": (
        f"{SHIFTED} g = Log(t) l = Add(g, top) d = Sub(x, l) p = Exp(d)",
        "x",
        -1,
        "logsumexp",
        "Sub Exp",
        "tentative",
    ),
    "the logarithm around the maximum in front": (
        f"{SHIFTED} g = Log(t) l = Add(top, g) d = Sub(x, l) p = Exp(d)",
        "x",
        -1,
        "logsumexp",
        "Sub Exp",
        "tentative",
    ),
    "maximum taken off, then the logarithm": (
        f"{SHIFTED} l = Log(t) d = Sub(z, l) p = Exp(d)",
        "x",
        -1,
        "logsumexp",
        "Sub Sub Exp",
        "tentative",
    ),
    "another logarithm taken off": (
        "l = ReduceLogSumExp<axes = [-1]>(b) d = Sub(x, l) p = Exp(d)",
        "d",
        -1,
        "exp",
        "Exp",
        "tentative element-wise",
    ),
    "a logarithm of something else": (
        "e = Relu(x) t = ReduceSum(e, m1) l = Log(t) d = Sub(x, l) p = Exp(d)",
        "d",
        -1,
        "exp",
        "Exp",
        "tentative element-wise",
    ),
    "a logarithm of others": (
        "e = Exp(b) t = ReduceSum(e, m1) l = Log(t) d = Sub(x, l) p = Exp(d)",
        "d",
        -1,
        "exp",
        "Exp",
        "tentative element-wise",
    ),
    "another maximum added again": (
        f"{SHIFTED} g = Log(t) l = Add(g, b) d = Sub(x, l) p = Exp(d)",
        "d",
        -1,
        "exp",
        "Exp",
        "tentative element-wise",
    ),
    "the maximum taken off twice": (
        f"{SHIFTED} g = Log(t) l = Sub(g, top) d = Sub(x, l) p = Exp(d)",
        "d",
        -1,
        "exp",
        "Exp",
        "tentative element-wise",
    ),
    "a greatest taken off": (
        "l = ReduceMax<axes = [-1]>(x) d = Sub(x, l) p = Exp(d)",
        "d",
        -1,
        "exp",
        "Exp",
        "tentative element-wise",
    ),
    "relu": ("p = Relu(x)", "x", -1, "relu", "Relu", "tentative element-wise"),
    "sigmoid": ("p = Sigmoid(x)", "x", -1, "sigmoid", "Sigmoid", "tentative element-wise"),
    "hard sigmoid": ("p = HardSigmoid(x)", "x", -1, "sigmoid", "HardSigmoid", "tentative element-wise"),
    "softplus": ("p = Softplus(x)", "x", -1, "softplus", "Softplus", "tentative element-wise"),
    "exp": ("p = Exp(x)", "x", -1, "exp", "Exp", "tentative element-wise"),
    "cut off below zero": ("p = Clip(x, zero)", "x", -1, "relu", "Clip", "tentative element-wise"),
    "cut off far above too": ("p = Clip(x, zero, huge)", "x", -1, "relu", "Clip", "tentative element-wise"),
    "greatest of it and zero": ("p = Max(x, zero)", "x", -1, "relu", "Max", "tentative element-wise"),
    "greatest of zero and it": ("p = Max(zero, x)", "x", -1, "relu", "Max", "tentative element-wise"),
    "sparsemax": (
        "v, i = TopK(x, five) c = ReduceSum(v, m1) d = Sub(x, c) p = Relu(d)",
        "d",
        -1,
        "sparsemax",
        "Relu",
        "tentative element-wise",
    ),
    "sparsemax by Max": (
        "v, i = TopK(x, five) c = ReduceSum(v, m1) d = Sub(x, c) p = Max(d, zero)",
        "d",
        -1,
        "sparsemax",
        "Max",
        "tentative element-wise",
    ),
    "a difference of something else": ("d = Sub(x, b) p = Relu(d)", "d", -1, "relu", "Relu", "tentative element-wise"),
    "a sum with what was sorted": (
        "v, i = TopK(x, five) c = ReduceSum(v, m1) d = Add(x, c) p = Relu(d)",
        "d",
        -1,
        "relu",
        "Relu",
        "tentative element-wise",
    ),
    "sorted, minus something": (
        "v, i = TopK(x, five) d = Sub(v, b) p = Relu(d)",
        "d",
        -1,
        "relu",
        "Relu",
        "tentative element-wise",
    ),
}


@pytest.mark.parametrize("case", ANCHORS)
def test_anchor(case: str) -> None:
    nodes, scores, axis, form, inner, words = ANCHORS[case]
    graph, found = anchor_at(nodes)
    assert found == Anchor(
        graph.node("p"),
        graph[scores],
        graph["p"],
        axis,
        form,
        tuple(inner.split()),
        assumed="assumed" in words,
        tentative="tentative" in words,
        element_wise="element-wise" in words,
    )


# nodes → code of a refusal, None for what is no anchor
OTHERS = {
    "axis 0 of unknown rank": ("p = Softmax<axis = 0>(u)", "rank"),
    "axis 1 of unknown rank": ("p = Softmax<axis = 1>(u)", "rank"),
    "an axis too many": ("p = Softmax<axis = 4>(x)", "axis"),
    "an axis too few": ("p = Softmax<axis = -5>(x)", "axis"),
    "several axes with a bias": ("p = com.microsoft.BiasSoftmax<axis = 2>(x, b)", "flatten"),
    "several axes by default": ("p = com.microsoft.BiasSoftmax(x, b)", "flatten"),
    "several axes of an old quantized one": (
        "p = com.microsoft.QLinearSoftmax<axis = 2, opset = 12>(x, small, zero, small, zero)",
        "flatten",
    ),
    "another of onnxruntime": ("p = com.microsoft.FastGelu(x)", None),
    "a BiasSoftmax of strangers": ("p = local.BiasSoftmax<axis = 3>(x, b)", None),
    "a Softmax of strangers": ("p = local.Softmax(x)", None),
    "divided by two sums": ("e = Exp(x) t = ReduceSum(e, both) p = Div(e, t)", "flatten"),
    "divided by other sums": ("e = Exp(x) f = Exp(b) t = ReduceSum(f, m1) p = Div(e, t)", None),
    "divided by no sum": ("e = Exp(x) p = Div(e, b)", None),
    "no exponential": ("e = Relu(x) t = ReduceSum(e, m1) p = Div(e, t)", None),
    "the exponential of a division": (f"{EXP} p = Div(e, t)", "decomposed"),
    "another operator": ("p = Tanh(x)", None),
    "cut off at six": ("p = Clip(x, zero, six)", None),
    "cut off below six": ("p = Clip(x, six)", None),
    "not cut off below": ("p = Clip(x)", None),
    "cut off somewhere": ("p = Clip(x, one_number)", None),
    "cut off above somewhere": ("p = Clip(x, zero, one_number)", None),
    "greatest of two": ("p = Max(x, b)", None),
    "greatest of it and six": ("p = Max(x, six)", None),
    "greatest of three": ("p = Max(x, b, zero)", None),
    "of a constant": ("p = Relu(zeros)", None),
}


@pytest.mark.parametrize("case", OTHERS)
def test_others(case: str) -> None:
    nodes, code = OTHERS[case]
    graph = read(INPUTS, nodes, constants=f"{CONSTANTS}, int64[2] both = {{-1,-2}}")
    found = read_anchor(graph.view, graph.facts, graph.node("p"))
    if code is None:
        assert found is None
    elif code == "decomposed":
        assert read_anchor(graph.view, graph.facts, graph.node("e")) is None
    else:
        assert isinstance(found, Refused) and found.code == code


@pytest.mark.parametrize(
    ("node", "opset", "axis", "form"),
    [
        ("Softmax<axis = 3>(x)", 12, -1, "softmax-flat"),
        ("Softmax<axis = -1>(x)", 12, -1, "softmax-flat"),
        ("Softmax<axis = 2>(x)", 12, "flatten", ""),
        ("Softmax(x)", 12, "flatten", ""),
        ("Softmax<axis = 1>(flat)", 12, "flatten", ""),
        ("Softmax<axis = 2>(flat)", 12, -1, "softmax-flat"),
        ("Softmax<axis = 2>(column)", 12, -1, "softmax-flat"),
        ("Softmax(column)", 12, "flatten", ""),
        ("Softmax<axis = 2>(x)", 13, -2, "softmax"),
    ],
)
def test_before_opset_13_a_softmax_flattens(node: str, opset: int, axis: int | str, form: str) -> None:
    graph = read(f"{INPUTS}, float[2,3,1,K] column", f"p = {node}", opset=opset)
    found = read_anchor(graph.view, graph.facts, graph.node("p"))
    if isinstance(axis, str):
        assert isinstance(found, Refused) and found.code == axis
    else:
        assert isinstance(found, Anchor) and (found.axis, found.form) == (axis, form)


def test_a_logarithm_before_opset_13_flattens_too() -> None:
    graph = read(INPUTS, "l = LogSoftmax<axis = 2>(x) p = Exp(l)", opset=12)
    found = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(found, Anchor) and (found.form, found.element_wise) == ("exp", True)


@pytest.mark.parametrize(
    ("node", "form"),
    [
        ("Clip<min = 0.0>(x)", "relu"),
        ("Clip<min = 0.0, max = 6.0>(x)", None),
        ("Clip<min = 1.0>(x)", None),
        ("Clip<max = 3.0>(x)", None),
    ],
)
def test_bounds_of_old_opsets(node: str, form: str | None) -> None:
    graph = read(INPUTS, f"p = {node}", opset=10)
    found = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert (found.form if isinstance(found, Anchor) else found) == form


def test_a_function_of_the_name_is_no_anchor() -> None:
    rest = '<domain: "com.microsoft", opset_import: ["" : 17]> BiasSoftmax (a, b) => (c) { c = Softmax<axis = -1>(a) }'
    graph = read(INPUTS, "p = com.microsoft.BiasSoftmax<axis = 3>(x, b)", rest=rest)
    assert read_anchor(graph.view, graph.facts, graph.node("p")) is None


def test_a_softmax_of_nothing_is_refused() -> None:
    graph = read(INPUTS, "p = Softmax()")
    found = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(found, Refused) and found.code == "no-scores"
