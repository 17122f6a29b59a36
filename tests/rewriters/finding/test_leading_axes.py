"""What the axes in front of a map's query rows count, asked of values and of queries and keys."""

from __future__ import annotations

import pytest

from rewriters.finding.heads import heads_last

from .reading import leading_axes, read

INPUTS = (
    "float[B,T,12] x, float[B,R,T,4] rows, float[B,3,T,4] q, float[B,3,4,T] k, float[B,3,T,4] v,"
    " float[T,4] table, float[B,1,T,4] one, float[B,T,4] flat"
)
CONSTANTS = (
    f"float[12,12] w = {{{','.join('1' * 144)}}}, float[4,4] w4 = {{{','.join('1' * 16)}}},"
    f" int64[4] split = {{0,0,3,4}}, float[4,12] up = {{{','.join('1' * 48)}}}, int64[5] split5 = {{0,0,0,3,4}}"
)


def projected(source: str, weight: str = "w", target: str = "split", order: str = "[0,2,1,3]") -> str:
    """Queries, keys and values, each with three heads."""
    return " ".join(
        f"{n}1 = MatMul({source}, {weight}) {n}2 = Reshape({n}1, {target}) {n}h = Transpose<perm = {order}>({n}2)"
        for n in "qkv"
    )


ATTENTION = "kt = Transpose<perm = [0,1,3,2]>(kh) s = MatMul(qh, kt) p = Softmax<axis = -1>(s) o = MatMul(p, vh)"
ROWS = "qh = MatMul(rows, w4) kh = MatMul(rows, w4) vh = MatMul(rows, w4)"

# nodes, axis → kind
KINDS = {
    "heads": (f"{projected('x')} {ATTENTION}", 1, "features"),
    "samples": (f"{projected('x')} {ATTENTION}", 0, "tokens"),
    "rows": (f"{ROWS} {ATTENTION}", 1, "tokens"),
    "rows of one input, not projected": (
        "t = Transpose<perm = [0,1,3,2]>(rows) s = MatMul(rows, t) p = Softmax<axis = -1>(s) o = MatMul(p, rows)",
        1,
        "tokens",
    ),
    "of three inputs": ("s = MatMul(q, k) p = Softmax<axis = -1>(s) o = MatMul(p, v)", 1, "unknown"),
    "values without it": ("s = MatMul(q, k) p = Softmax<axis = -1>(s) o = MatMul(p, table)", 1, "shared"),
    "values without samples": ("s = MatMul(q, k) p = Softmax<axis = -1>(s) o = MatMul(p, table)", 0, "shared"),
    "values of one entry": ("s = MatMul(q, k) p = Softmax<axis = -1>(s) o = MatMul(p, one)", 1, "shared"),
    "values as they are, heads of queries": (
        f"{projected('x')} kt = Transpose<perm = [0,1,3,2]>(kh) s = MatMul(qh, kt) p = Softmax<axis = -1>(s)"
        " o = MatMul(p, v)",
        1,
        "features",
    ),
    "by Einsum, heads behind the tokens": (
        "q1 = MatMul(x, w) qh = Reshape(q1, split) v1 = MatMul(x, w) vh = Reshape(v1, split)"
        ' s = Einsum<equation = "bqhd,bkhd->bhqk">(qh, qh) p = Softmax<axis = -1>(s)'
        ' o = Einsum<equation = "bhqk,bkhd->bqhd">(p, vh)',
        1,
        "features",
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_kind(case: str) -> None:
    nodes, axis, kind = KINDS[case]
    assert leading_axes(read(INPUTS, nodes, constants=CONSTANTS)).kind(axis) == kind


# nodes → whether the product has no heads, and the order of the map
LAST = {
    "heads last": (f"{projected('x')} {ATTENTION}", False, None),
    "rows only": (f"{ROWS} {ATTENTION}", True, None),
    "heads before rows": (
        projected("rows", "up", "split5", "[0,3,1,2,4]")
        + " kt = Transpose<perm = [0,1,2,4,3]>(kh) s = MatMul(qh, kt) p = Softmax<axis = -1>(s) o = MatMul(p, vh)",
        False,
        (0, 2, 1, 3, 4),
    ),
    "rows before heads": (
        projected("rows", "up", "split5", "[0,1,3,2,4]")
        + " kt = Transpose<perm = [0,1,2,4,3]>(kh) s = MatMul(qh, kt) p = Softmax<axis = -1>(s) o = MatMul(p, vh)",
        False,
        None,
    ),
    "three axes": (
        "kt = Transpose<perm = [0,2,1]>(flat) s = MatMul(flat, kt) p = Softmax<axis = -1>(s) o = MatMul(p, flat)",
        False,
        None,
    ),
}


@pytest.mark.parametrize("case", LAST)
def test_heads_come_last(case: str) -> None:
    nodes, none, order = LAST[case]
    axes = leading_axes(read(INPUTS, nodes, constants=CONSTANTS))
    product, single = heads_last(axes)
    assert single is none
    if order is None:
        assert product == axes.hit.product
    else:
        assert product.probabilities_perm == product.values_perm == product.output_perm == order
