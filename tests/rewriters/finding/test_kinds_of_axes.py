"""What an axis of values counts: heads, or tokens."""

from __future__ import annotations

import math

import pytest

from rewriters.finding.heads import kind_of

from .reading import read

INPUTS = (
    "float[B,T,12] x, float[B,T,H,4] many, float[B,R,T,12] rows, int64[B,T] ids, float[B,H,T,4] apart, "
    " float[B,5,T,12] frames, float[B,8,9,9] picture, int64[4] to4, bool c"
)


def constant(name: str, *shape: int) -> str:
    return f"float[{','.join(map(str, shape))}] {name} = {{{','.join('1' * math.prod(shape))}}}"


CONSTANTS = ", ".join(
    (
        constant("w", 12, 12),
        constant("wide", 12, 36),
        "int64[1] start = {12}, int64[1] end = {24}",
        constant("table", 9, 12),
        constant("per_head", 3, 12, 4),
        constant("w4", 4, 4),
        constant("gain", 12),
        constant("kernel", 12, 8, 1, 1),
        "int64[4] split = {0,0,3,4}, int64[3] flat = {0,12,81}, int64[1] a1 = {1},"
        " int64[1] m1 = {-1}, int64[3] rt = {0,-1,12}, int64[3] keep ="
        " {0,0,-1},"
        " int64[4] flat_split = {0,3,4,81}",
    )
)

SPLIT = "s = Reshape(p, split) v = Transpose<perm = [0,2,1,3]>(s)"

# nodes that make v, the axis, the key axis → what the axis counts
KINDS = {
    "features of a projection": (f"p = MatMul(x, w) {SPLIT}", 1, 2, "features"),
    "features, the inner part": (f"p = MatMul(x, w) {SPLIT}", 3, 2, "features"),
    "tokens of a projection": (f"p = MatMul(x, w) {SPLIT}", 2, 1, "tokens"),
    "samples of a projection": (f"p = MatMul(x, w) {SPLIT}", 0, 2, "tokens"),
    "features with a bias": (f"r = MatMul(x, w) p = Add(r, gain) {SPLIT}", 1, 2, "features"),
    "rows of an image": ("v = MatMul(rows, w)", 1, 2, "tokens"),
    "frames": ("v = MatMul(frames, w)", 1, 2, "tokens"),
    "of an input, as it is": ("v = Identity(apart)", 1, 2, "unknown"),
    "a part of the last axis of an input": (
        "p = Identity(x) s = Reshape(p, split) v = Transpose<perm = [0,2,1,3]>(s)",
        1,
        2,
        "features",
    ),
    "the whole last axis of an input": ("v = Transpose<perm = [0,2,1]>(x)", 1, 2, "unknown"),
    "embedded": (f"p = Gather(table, ids) {SPLIT}", 1, 2, "features"),
    "embedded tokens": (f"p = Gather(table, ids) {SPLIT}", 2, 1, "tokens"),
    "features that hold the keys": ("p = MatMul(x, w) v = Identity(p)", 2, 2, "unknown"),
    "repeated": ("u = Unsqueeze(x, a1) v = Expand(u, to4)", 1, 2, "shared"),
    "of one entry": ("v = Unsqueeze(x, a1)", 1, 2, "unknown"),
    "normalized features": (f"p = LayerNormalization(x, gain) {SPLIT}", 1, 2, "features"),
    "projected one by one": ("u = Unsqueeze(x, a1) v = MatMul(u, per_head)", 1, 2, "features"),
    "projected with shared weights": (
        "q = MatMul(x, w) s = Reshape(q, split) t = Transpose<perm = [0,2,1,3]>(s) v = MatMul(t, w4)",
        1,
        2,
        "features",
    ),
    "projected twice, tokens": (f"q = MatMul(x, w) p = MatMul(q, w) {SPLIT}", 2, 1, "tokens"),
    "channels of a convolution": (
        "p = Conv(picture, kernel) s = Reshape(p, flat_split) v = Transpose<perm = [0,1,3,2]>(s)",
        1,
        2,
        "features",
    ),
    "places of a convolution": (
        "p = Conv(picture, kernel) s = Reshape(p, flat) v = Transpose<perm = [0,2,1]>(s)",
        1,
        2,
        "tokens",
    ),
    "features by Einsum": ('v = Einsum<equation = "btc,hcd->bhtd">(x, per_head)', 1, 2, "features"),
    "tokens by Einsum": ('v = Einsum<equation = "brtc,cd->brtd">(rows, w)', 1, 2, "tokens"),
    "widths by Einsum": ('v = Einsum<equation = "btc,hcd->bhtd">(x, per_head)', 3, 2, "features"),
    "split off features": (f"all = MatMul(x, wide) p, p2, p3 = Split<axis = 2>(all) {SPLIT}", 1, 2, "features"),
    "cut out of features": (f"all = MatMul(x, wide) p = Slice(all, start, end, m1) {SPLIT}", 1, 2, "features"),
    "rows merged with tokens": ("p = MatMul(rows, w) v = Reshape(p, rt)", 1, 0, "tokens"),
    "merged of tokens and features by an unknown number": ("p = MatMul(many, w4) v = Reshape(p, keep)", 2, 1, "tokens"),
    "out of a branch": (
        "p = If (c) <then_branch = f () => (float[B,T,12] a) { a = MatMul(x, w) }, else_branch = g () =>"
        f" (float[B,T,12] b) {{ b = MatMul(x, w) }}> {SPLIT}",
        1,
        2,
        "features",
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_kind(case: str) -> None:
    nodes, axis, key_axis, kind = KINDS[case]
    graph = read(INPUTS, nodes, constants=CONSTANTS)
    assert kind_of(graph.view, graph.facts, graph["v"], axis, key_axis) == kind
