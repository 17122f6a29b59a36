"""The number of heads that are merged with the samples."""

from __future__ import annotations

import pytest

from rewriters.finding.facts import Dims
from rewriters.finding.merged import _merge, merged_heads

from .reading import leading_axes, read


@pytest.mark.parametrize(
    ("wide", "narrow", "heads"),
    [
        (("B", 3, "Q", "K"), ("N", "Q", "K"), 3),
        ((2, 3, 5, 7), (6, 5, 7), 3),
        ((1, 3, 5, 7), (1, 5, 7), 3),
        (("B", 3, "Q", "K"), ("N", "R", "K"), None),
        (("B", 3, "Q", 7), ("N", "R", 7), 3),
        (("B", 3, 5, 7), ("N", "R", 7), 3),
        (("B", 3, "Q", 7), ("N", 5, 7), 3),
        (("B", 3, 5, 7), ("N", 6, 7), None),
        (("B", 3, 5, "K"), ("N", 6, "K"), None),
        (("B", 3, "Q", "K"), ("N", "Q", "T"), None),
        (("B", 3, "Q", 7), ("N", "Q", 8), None),
        (("B", 3, "Q", "K"), ("B", "Q", "K"), None),
        (("B", "H", "Q", "K"), ("N", "Q", "K"), None),
        (("B", 2, 3, "Q", "K"), ("N", "Q", "K"), None),
        (("B", 3, "Q"), ("N", "Q", "K"), None),
        (("B", 3, "Q", "K"), ("N", "K"), None),
    ],
)
def test_heads_of_a_reshape(wide: Dims, narrow: Dims, heads: int | None) -> None:
    assert _merge(wide, narrow) == heads


CONSTANTS = (
    "int64[3] flat_q = {-1,5,4}, int64[3] flat_k = {-1,4,7}, int64[3] flat_v = {-1,7,4}, int64[4] wide_q = {-1,3,5,4},"
    " int64[4] wide_map = {-1,3,5,7}, int64[3] flat_map = {-1,5,7}, int64[1] zero = {0}, int64[1] five = {5}"
)
SIZED = "float[N,5,4] q, float[N,4,7] k, float[N,7,4] v, float[B,3,5,4] q4, float[B,3,4,7] k4, float[B,3,7,4] v4"

# nodes → heads
EVIDENCE = {
    "none": ("x = MatMul(q, k) p = Softmax<axis = -1>(x) o = MatMul(p, v)", None),
    "the queries": ("a = Reshape(q4, flat_q) x = MatMul(a, k) p = Softmax<axis = -1>(x) o = MatMul(p, v)", 3),
    "the queries, scaled": (
        "a = Reshape(q4, flat_q) b = Mul(a, two) x = MatMul(b, k) p = Softmax<axis = -1>(x) o = MatMul(p, v)",
        3,
    ),
    "the scaled queries, scale in front": (
        "a = Reshape(q4, flat_q) b = Mul(two, a) x = MatMul(b, k) p = Softmax<axis = -1>(x) o = MatMul(p, v)",
        3,
    ),
    "queries behind another layer": (
        "a = Reshape(q4, flat_q) b = Relu(a) x = MatMul(b, k) p = Softmax<axis = -1>(x) o = MatMul(p, v)",
        None,
    ),
    "the keys": ("a = Reshape(k4, flat_k) x = MatMul(q, a) p = Softmax<axis = -1>(x) o = MatMul(p, v)", 3),
    "the values": ("a = Reshape(v4, flat_v) x = MatMul(q, k) p = Softmax<axis = -1>(x) o = MatMul(p, a)", 3),
    "the scores": (
        "x = MatMul(q, k) w = Reshape(x, wide_map) y = Mul(w, two) z = Reshape(y, flat_map) p = Softmax<axis = -1>(z)"
        " o = MatMul(p, v)",
        3,
    ),
    "the map": (
        "x = MatMul(q, k) p = Softmax<axis = -1>(x) w = Reshape(p, wide_map) z = Reshape(w, flat_map) o = MatMul(z, v)",
        3,
    ),
    "the output": ("x = MatMul(q, k) p = Softmax<axis = -1>(x) o = MatMul(p, v) y = Reshape(o, wide_q)", 3),
    "the output, cast": (
        "x = MatMul(q, k) p = Softmax<axis = -1>(x) o = MatMul(p, v) c = Cast<to = 1>(o) y = Reshape(c, wide_q)",
        3,
    ),
    "the output, cast three times": (
        "x = MatMul(q, k) p = Softmax<axis = -1>(x) o = MatMul(p, v) c = Cast<to = 1>(o) d = Identity(c)"
        " e = Identity(d) y = Reshape(e, wide_q)",
        None,
    ),
    "the output, cast twice": (
        "x = MatMul(q, k) p = Softmax<axis = -1>(x) o = MatMul(p, v) c = Cast<to = 1>(o) d = Slice(c, zero, five)"
        " y = Reshape(d, wide_q)",
        3,
    ),
    "the output behind another layer": (
        "x = MatMul(q, k) p = Softmax<axis = -1>(x) o = MatMul(p, v) c = Relu(o) y = Reshape(c, wide_q)",
        None,
    ),
    "the output, read twice": (
        "x = MatMul(q, k) p = Softmax<axis = -1>(x) o = MatMul(p, v) c = Identity(o) d = Identity(o)"
        " y = Reshape(c, wide_q)",
        None,
    ),
    "learned queries": ("a = Identity(learned) x = MatMul(a, k) p = Softmax<axis = -1>(x) o = MatMul(p, v)", None),
    "the output, behind scores in one shape": (
        "x = MatMul(q, k) z = Reshape(x, flat_map) p = Softmax<axis = -1>(z) o = MatMul(p, v) y = Reshape(o, wide_q)",
        3,
    ),
    "heads on an axis of their own, merged afterwards": (
        "x = MatMul(q4, k4) p = Softmax<axis = -1>(x) o = MatMul(p, v4) y = Reshape(o, flat_q)",
        None,
    ),
    "heads on an axis of their own": ("x = MatMul(q4, k4) p = Softmax<axis = -1>(x) o = MatMul(p, v4)", None),
}


@pytest.mark.parametrize("case", EVIDENCE)
def test_evidence(case: str) -> None:
    nodes, heads = EVIDENCE[case]
    graph = read(SIZED, nodes, constants=f"{CONSTANTS}, float two = {{2}}, float[1,2,4] learned = {{1,2,3,4,5,6,7,8}}")
    assert merged_heads(leading_axes(graph)) == heads


PART = "{n} = Reshape({n}4, flat) "
REST = "kt = Transpose<perm = [0,2,1]>(k) x = MatMul(q, kt) p = Softmax<axis = -1>(x) o = MatMul(p, v)"
MERGED = "".join(PART.format(n=n) for n in "qkv") + REST


@pytest.mark.parametrize(
    ("nodes", "heads"),
    [
        ("q4 = MatMul(rows, w) k4 = MatMul(rows, w) v4 = MatMul(rows, w)", None),
        ("q4 = Identity(rows) k4 = Identity(others) v4 = Identity(more)", 3),
        (
            "a = MatMul(tokens, up) b = Reshape(a, split) q4 = Transpose<perm = [0,2,1,3]>(b)"
            " k4 = Identity(q4) v4 = Identity(q4)",
            3,
        ),
    ],
    ids=["rows, projected", "of three inputs", "heads"],
)
def test_an_axis_that_counts_tokens_is_not_one_of_heads(nodes: str, heads: int | None) -> None:
    graph = read(
        "float[B,3,5,4] rows, float[B,3,5,4] others, float[B,3,5,4] more, float[B,5,4] tokens",
        f"{nodes} {MERGED}",
        constants=(
            f"float[4,4] w = {{{','.join('1' * 16)}}}, float[4,12] up = {{{','.join('1' * 48)}}},"
            " int64[3] flat = {-1,5,4}, int64[4] split = {0,0,3,4}"
        ),
    )
    assert merged_heads(leading_axes(graph)) == heads


def test_rows_whose_map_and_values_are_turned_are_tokens_too() -> None:
    """The axis is then not the first of the map, nor of the values."""
    nodes = (
        "q = Reshape(rows, flat) kt = Transpose<perm = [0,2,1]>(q) x = MatMul(q, kt) p = Softmax<axis = -1>(x)"
        " pt = Transpose<perm = [1,0,2]>(p) vt = Transpose<perm = [1,0,2]>(q)"
        ' o = Einsum<equation = "qbk,kbd->bqd">(pt, vt)'
    )
    graph = read("float[B,3,5,4] rows", nodes, constants="int64[3] flat = {-1,5,4}")
    assert merged_heads(leading_axes(graph)) is None
