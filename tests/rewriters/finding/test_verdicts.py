"""What is said of each map: a site, a rejection with its reason, or nothing."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from rewriters.finding.finder import REASONS, find_sites, trace_sites

INPUTS = (
    "float[2,3,Q,4] q, float[2,3,4,K] k, float[2,3,K,4] v, float[2,3,Q,K] other, float[2,3,K,K] vk, float[2,5,4] x,"
    " float[2,5,4] z, bool c"
)
ONES = ",".join("1" * 16)
CONSTANTS = f"float[4,4] w = {{{ONES}}}, float[4] line = {{1,2,3,4}}, int64 axis = {{-1}}, float scale = {{0.5}}"
SCORES = "s = MatMul(q, k)"
TOKENS = "tq = MatMul(x, w) tk = MatMul(x, w) tv = MatMul(x, w) tt = Transpose<perm = [0,2,1]>(tk) s = MatMul(tq, tt)"

# nodes → (node of the map, code, what is said of this case), code "" for a site; in graph order, sites first
VERDICTS = {
    "attention": (f"{SCORES} p = Softmax<axis = -1>(s) o = MatMul(p, v)", [("p", "", "")]),
    "two products": (
        f"{SCORES} p = Softmax<axis = -1>(s) o = MatMul(p, v) y = MatMul(p, vk)",
        [("p", "", ""), ("p", "", "")],
    ),
    "an output": (f"{SCORES} o = Softmax<axis = -1>(s)", [("o", "output", "an output of the graph")]),
    "unused": (f"{SCORES} p = Softmax<axis = -1>(s) o = Identity(v)", [("p", "unused", "")]),
    "a class head": (
        "s = MatMul(q, w) p = Softmax<axis = -1>(s) o = MatMul(p, k)",
        [("p", "constant-scores", "MatMul with a constant weight")],
    ),
    "no scores": ("p = Softmax<axis = -1>(other) o = MatMul(p, v)", [("p", "no-scores", "a graph input")]),
    "constant values": (f"{SCORES} p = Softmax<axis = -1>(s) g = Identity(p) o = Sin(g)", [("p", "no-product", "Sin")]),
    "the product of another": (
        f"{SCORES} p = Softmax<axis = -1>(s) r = Softmax<axis = -1>(s) m = Add(p, r) o = MatMul(m, v)",
        [("p", "", ""), ("r", "shared-product", "o")],
    ),
    "values of itself": (
        f"{SCORES} p = Softmax<axis = -1>(s) f = Tanh(p) t = Transpose<perm = [0,1,3,2]>(f) o = MatMul(p, t)",
        [("p", "own-values", "MatMul")],
    ),
    "values behind the map that are not of it": (
        f"{SCORES} p = Softmax<axis = -1>(s) f = Tanh(v) o = MatMul(p, f)",
        [("p", "", "")],
    ),
    "the better reason of two": (
        f"{SCORES} p = Softmax<axis = -1>(s) a = Sin(p) o = CumSum(p, axis) y = MatMul(o, v)",
        [("p", "mixed-map", "CumSum")],
    ),
    "several axes": (
        f"{SCORES} p = com.microsoft.BiasSoftmax<axis = 2>(s, other) o = MatMul(p, v)",
        [("p", "flatten", "axis 2 of rank 4")],
    ),
    "exp of a logarithm": (f"{SCORES} l = LogSoftmax<axis = -1>(s) p = Exp(l) o = MatMul(p, v)", [("p", "", "")]),
    "exp of a logarithm that enters no product": (f"{SCORES} l = LogSoftmax<axis = -1>(s) p = Exp(l) o = Sin(p)", []),
    "exp of a logarithm before something like a product": (
        f"{SCORES} l = LogSoftmax<axis = -1>(s) p = Exp(l) o = CumSum(p, axis) y = MatMul(o, v)",
        [("p", "mixed-map", "CumSum")],
    ),
    "exp of a logarithm of no scores": (
        "l = LogSoftmax<axis = -1>(other) p = Exp(l) o = CumSum(p, axis) y = MatMul(o, v)", [],
    ),
    "exp of a logarithm of constant scores": (
        "s = MatMul(q, w) l = LogSoftmax<axis = -1>(s) p = Exp(l) o = MatMul(p, k)",
        [],
    ),
    "relu": (f"{TOKENS} p = Relu(s) o = MatMul(p, tv)", [("p", "", "")]),
    "relu, keys on the other axis": (
        "tq = MatMul(x, w) tk = MatMul(x, w) tv = MatMul(x, w) tt = Transpose<perm = [0,2,1]>(tq) s = MatMul(tk, tt)"
        " p = Relu(s) r = Transpose<perm = [0,2,1]>(p) o = MatMul(r, tv)", [("p", "", "")],
    ),
    "relu of a layer": ("s = MatMul(x, w) p = Relu(s) o = MatMul(p, w)", []),
    "relu of one more product": (f"{TOKENS} p = Relu(s) o = Sin(p)", []),
    "relu before something like a product": (
        f"{TOKENS} p = Relu(s) o = CumSum(p, axis) y = MatMul(o, tv)",
        [("p", "mixed-map", "CumSum")],
    ),
    "relu before a softmax": (f"{TOKENS} p = Relu(s) r = Softmax<axis = -1>(p) o = MatMul(r, tv)", [("r", "", "")]),
    "relu with values of another text": (
        f"{TOKENS} zr = Tanh(z) zv = MatMul(zr, w) p = Relu(s) o = MatMul(p, zv)",
        [("p", "unproven-tokens", None)],
    ),
    "fused": ("o = com.microsoft.NewAttention(q, k, v)", [("o", "fused", "NewAttention")]),
    "fused, with a map": ("o = com.microsoft.MultiHeadAttention<num_heads = 2>(x, x, x)", [("o", "", "")]),
    "in branches": (
        f"{SCORES} o = If (c) <then_branch = f () => (float[2,3,Q,4] a) {{ p = Softmax<axis = -1>(s)"
        " a = MatMul(p, v) },"
        " else_branch = g () => (float[2,3,Q,4] b) { r = Softmax<axis = -1>(s) b = Identity(q) }>",
        [("p", "", ""), ("r", "unused", "")],
    ),
}  # fmt: skip


def made(nodes: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g ({INPUTS}) => (float[?,?,?,?] o) <{CONSTANTS}> {{ {nodes} }}"""
    )


@pytest.mark.parametrize("case", VERDICTS)
def test_verdict(case: str) -> None:
    nodes, expected = VERDICTS[case]
    model = made(nodes)
    if "(x, " in nodes or "(z, " in nodes:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    sites, rejected = find_sites(model)
    assert [(site.softmax, "") for site in sites] == [(name, code) for name, code, _ in expected if not code]
    assert [(r.softmax, r.code) for r in rejected] == [(name, code) for name, code, _ in expected if code]
    for rejection, (_, code, detail) in zip(rejected, [row for row in expected if row[1]], strict=True):
        if detail is not None:
            assert rejection.reason == REASONS[code] + (f" ({detail})" if detail else "")
    traced = trace_sites(model).traces
    assert [trace.site for trace in traced if trace.site] == list(sites)
    assert [trace.rejection for trace in traced if trace.rejection] == list(rejected)


def test_of_a_graph_that_cannot_be_read_every_softmax_is_named() -> None:
    model = made(f"{SCORES} p = Softmax<axis = -1>(s) o = MatMul(p, v) r = Softmax<axis = -1>(s)")
    model.graph.node.append(model.graph.node[0])
    sites, rejected = find_sites(model)
    assert not sites
    assert [(r.softmax, r.code, r.reason) for r in rejected] == [
        (name, "unreadable", REASONS["unreadable"]) for name in ("p", "r")
    ]
    assert [trace.rejection for trace in trace_sites(model).traces] == list(rejected)
