"""The parts of the sum under a Tanh."""

from __future__ import annotations

import pytest

from rewriters.finding.additive import additive_operands

from .reading import read

INPUTS = (
    "float[B,Q,1,8] q, float[B,1,K,8] k, float[B,K,8] x, float[B,8] u, int64[3] size, int64[4] to, float[B,Q,1,8] r"
)
CONSTANTS = (
    "float[16,1] v16 = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float bias = {2}, int64[1] one = {1},"
    " int64[3] many = {1,5,1}, float[1,1,1] part = {1}"
)

# nodes that make y → the two parts
SUMS = {
    "sum": ("a = Add(q, k) y = Tanh(a)", ("q", "k")),
    "in graph attention": ("a = Add(q, k) y = LeakyRelu(a)", ("q", "k")),
    "another activation": ("a = Add(q, k) y = Relu(a)", None),
    "no sum": ("a = Relu(q) y = Tanh(a)", None),
    "difference": ("a = Sub(q, k) y = Tanh(a)", None),
    "of what is fed in": ("y = Tanh(q)", None),
    "no activation": ("y = Identity(q)", None),
    "layout aside": ("a = Add(q, k) b = Reshape(a, to) c = Tanh(b) y = Transpose<perm = [0,2,1,3]>(c)", ("q", "k")),
    "bias aside": ("a = Add(q, k) b = Add(a, bias) y = Tanh(b)", ("q", "k")),
    "bias in front aside": ("a = Add(q, k) b = Add(bias, a) y = Tanh(b)", ("q", "k")),
    "scale aside": ("a = Add(q, k) t = Tanh(a) y = Mul(t, bias)", ("q", "k")),
    "of equal shape": ("a = Add(q, r) y = Tanh(a)", None),
    "of unknown shape": ("h = local.Strange(q) a = Add(h, k) y = Tanh(a)", ("h", "k")),
    "a scale of an integer product aside": (
        "a = Add(q, k) b, s, z = DynamicQuantizeLinear(q) t = Mul(s, bias) c = Mul(a, t) y = Tanh(c)",
        ("q", "k"),
    ),
    "quantized numbers are no scale": (
        "a = Add(q, k) b, s, z = DynamicQuantizeLinear(q) c = Cast<to = 1>(b) d = Mul(a, c) y = Tanh(d)",
        None,
    ),
    "times another value": ("a = Add(q, k) c = Mul(a, k) y = Tanh(c)", None),
    "projected side by side": (
        "e = Expand(u3, size) j = Concat<axis = -1>(e, x) m = MatMul(j, v16) y = Tanh(m)",
        ("e", "x"),
    ),
    "projected side by side, keys first": (
        "e = Expand(u3, size) j = Concat<axis = -1>(x, e) m = MatMul(j, v16) y = Tanh(m)",
        ("x", "e"),
    ),
    "projected, weight first": (
        "e = Expand(u3, size) j = Concat<axis = -1>(x, e) m = MatMul(v16, j) y = Tanh(m)",
        ("x", "e"),
    ),
    "repeated by Tile, moved": (
        "t = Tile(u3, many) e = Identity(t) j = Concat<axis = -1>(e, x) m = MatMul(j, v16) y = Tanh(m)",
        ("e", "x"),
    ),
    "none repeated": ("j = Concat<axis = -1>(x, x2) m = MatMul(j, v16) y = Tanh(m)", None),
    "repeated far behind": (
        "t = Tile(u3, many) e = Relu(t) j = Concat<axis = -1>(e, x) m = MatMul(j, v16) y = Tanh(m)",
        None,
    ),
    "both repeated": (
        "e = Expand(u3, size) f = Expand(u3, size) j = Concat<axis = -1>(e, f) m = MatMul(j, v16) y = Tanh(m)",
        None,
    ),
    "three parts": (
        "e = Expand(u3, size) j = Concat<axis = -1>(e, x, x2) m = MatMul(j, v16) y = Tanh(m)",
        None,
    ),
    "a constant part aside": (
        "e = Expand(u3, size) j = Concat<axis = -1>(part, e, x) m = MatMul(j, v16) y = Tanh(m)",
        ("e", "x"),
    ),
    "stacked otherwise": ("e = Expand(u3, size) j = Mul(e, x) m = MatMul(j, v16) y = Tanh(m)", None),
    "product of two computed values": (
        "e = Expand(u3, size) j = Concat<axis = -1>(e, x) m = MatMul(j, w) y = Tanh(m)",
        None,
    ),
}


@pytest.mark.parametrize("case", SUMS)
def test_sum(case: str) -> None:
    nodes, parts = SUMS[case]
    graph = read(f"{INPUTS}, float[B,1,8] u3, float[B,K,8] x2, float[16,1] w", nodes, constants=CONSTANTS)
    found = additive_operands(graph.view, graph.facts, graph["y"])
    assert (None if found is None else (found.first, found.second)) == (
        None if parts is None else tuple(graph[part] for part in parts)
    )


def test_no_factor() -> None:
    graph = read(INPUTS, "y = Tanh(q)")
    assert additive_operands(graph.view, graph.facts, None) is None
