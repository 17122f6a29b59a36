"""Where the entries of a mask are read, followed as a sum of positions."""

from __future__ import annotations

import pytest

from rewriters.finding.index_masks import mask_read_in_place

from .reading import read

INPUTS = (
    "int64[B,K] mask, int64[2,3] small, int64[B,K] other, int64[K] order, int64 k, int64[] vague, int64[B,1,K] deep,"
    " int64[1,K] single, int64[B,1] narrow, int64[2,3,4] cube, int64[3,2] two_wide"
)
CONSTANTS = (
    "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] a0 = {0}, int64[1] a1 = {1}, int64[1] last = {-1},"
    " int64[2] right = {1,2}, int64[2] left = {0,1}, int64[3,2] row0 = {0,0,0,1,0,2},"
    " int64[2,1,3,2] pairs = {0,0,0,1,0,2,1,0,1,1,1,2}, int64[2,1,3,2] swapped = {0,0,1,0,0,1,1,1,0,2,1,2},"
    " int64[2,1,3,2] wrong = {0,0,0,1,0,2,1,0,1,2,1,1}, int64[2,1,3,2] later = {0,1,0,2,0,2,1,1,1,2,1,2},"
    " int64[2,1,3] counted = {0,1,2,3,4,5}, int64[2,1,3] backwards = {2,1,0,5,4,3}, int64[2,1,3] overlapping ="
    " {0,1,2,2,3,4},"
    " int32[2,1,3] counted32 = {0,1,2,3,4,5},"
    " int64[1] all = {-1}, int64[3,1,2,2] two_columns = {0,0,0,1,1,0,1,1,2,0,2,1},"
    " int64[2,1,1] starts = {0,3}"
)
SIZES = (
    "z = Shape(mask) b = Gather(z, zero) n = Gather(z, one) nv = Gather(z, a1) jr = Range(zero, n, one)"
    " br = Range(zero, b, one)"
)
PLACES = f"{SIZES} b3 = Unsqueeze(br, right) j3 = Unsqueeze(jr, left)"
PAIR = (
    "g = Add(b3, j3) size = Shape(g) be = Expand(b3, size) je = Expand(j3, size) b4 = Unsqueeze(be, last)"
    " j4 = Unsqueeze(je, last)"
)
FLAT = "f = Reshape(mask, all)"

# nodes that make y → the mask that it is
READS = {
    # constants
    "constant pairs": ("y = GatherND(small, pairs)", "small"),
    "constant pairs in the other order": ("y = GatherND(small, swapped)", None),
    "constant pairs, columns turned in a row": ("y = GatherND(small, wrong)", None),
    "constant pairs from the second column on": ("y = GatherND(small, later)", None),
    "constant pairs of one row": ("g = GatherND(small, row0) y = Unsqueeze(g, left)", None),
    "two columns": ("y = GatherND(two_wide, two_columns)", "two_wide"),
    "first columns only": ("f = Reshape(small, all) y = Gather(f, starts)", None),
    "flat constants": ("f = Reshape(small, all) y = Gather(f, counted)", "small"),
    "flat constants of 32 bits": ("f = Reshape(small, all) y = Gather(f, counted32)", "small"),
    "flat constants, backwards": ("f = Reshape(small, all) y = Gather(f, backwards)", None),
    "flat constants, overlapping rows": ("f = Reshape(small, all) y = Gather(f, overlapping)", None),
    "flat by Flatten": ("f = Flatten<axis = 2>(small) g = Gather(f, counted) y = Squeeze(g, last)", "small"),
    "not flat": ("y = Gather(small, counted)", None),
    "flat, along another axis": ("f = Flatten<axis = 0>(small) y = Gather<axis = 1>(f, counted)", None),
    "cast on the way": (
        "c = Cast<to = 9>(small) f = Reshape(c, all) g = Gather(f, counted) y = Cast<to = 1>(g)",
        "small",
    ),
    "batches of pairs": ("y = GatherND<batch_dims = 1>(cube, pairs)", None),
    # ranges
    "pairs": (f"{PLACES} {PAIR} i = Concat<axis = -1>(b4, j4) y = GatherND(mask, i)", "mask"),
    "pairs, axis from the left": (f"{PLACES} {PAIR} i = Concat<axis = 3>(b4, j4) y = GatherND(mask, i)", "mask"),
    "pairs in the other order": (f"{PLACES} {PAIR} i = Concat<axis = -1>(j4, b4) y = GatherND(mask, i)", None),
    "pairs along another axis": (f"{PLACES} {PAIR} i = Concat<axis = 2>(b4, j4) y = GatherND(mask, i)", None),
    "the same sample twice": (f"{PLACES} {PAIR} i = Concat<axis = -1>(b4, b4) y = GatherND(mask, i)", None),
    "of another input": (f"{PLACES} {PAIR} i = Concat<axis = -1>(b4, j4) y = GatherND(other, i)", None),
    "flat": (f"{PLACES} {FLAT} bk = Mul(b3, n) i = Add(bk, j3) y = Gather(f, i)", "mask"),
    "flat, number in front": (f"{PLACES} {FLAT} bk = Mul(n, b3) i = Add(j3, bk) y = Gather(f, i)", "mask"),
    "flat, times a list of one": (f"{PLACES} {FLAT} bk = Mul(b3, nv) i = Add(bk, j3) y = Gather(f, i)", "mask"),
    "flat, cast": (f"{PLACES} {FLAT} bk = Mul(b3, n) i = Add(bk, j3) h = Cast<to = 6>(i) y = Gather(f, h)", "mask"),
    "flat, line by line": (
        f"{PLACES} {FLAT} bk = Mul(b3, n) i = Add(bk, j3) size = Shape(i) li = Reshape(i,"
        f" all) g = Gather(f, li) y = Reshape(g, size)",
        None,
    ),
    "flat, by another step": (f"{PLACES} {FLAT} bk = Mul(b3, b) i = Add(bk, j3) y = Gather(f, i)", None),
    "flat, twice the step": (
        f"{PLACES} {FLAT} bk = Mul(b3, n) bl = Mul(bk, two) i = Add(bl, j3) y = Gather(f, i)",
        None,
    ),
    "flat, no step": (f"{PLACES} {FLAT} bk = Mul(b3, zero) i = Add(bk, j3) y = Gather(f, i)", None),
    "flat, columns twice": (f"{PLACES} {FLAT} i = Add(j3, j3) e = Add(i, b3) y = Gather(f, e)", None),
    "flat, by an unknown step": (f"{PLACES} {FLAT} bk = Mul(b3, k) i = Add(bk, j3) y = Gather(f, i)", None),
    "flat, product of positions": (f"{PLACES} {FLAT} bk = Mul(b3, j3) i = Add(bk, j3) y = Gather(f, i)", None),
    "flat, one more": (f"{PLACES} {FLAT} bk = Mul(b3, n) i = Add(bk, j3) h = Sub(i, one) y = Gather(f, h)", None),
    "columns in a given order": (
        f"{SIZES} {FLAT} b3 = Unsqueeze(br, right) j3 = Unsqueeze(order, left) bk ="
        f" Mul(b3, n) i = Add(bk, j3) y = Gather(f, i)",
        None,
    ),
    "columns counted from one": (
        f"{SIZES} {FLAT} m = Add(n, one) js = Range(one, m, one) b3 = Unsqueeze(br,"
        f" right) j3 = Unsqueeze(js, left) bk = Mul(b3, n) i = Add(bk, j3) y = Gather(f, i)",
        None,
    ),
    "columns counted by two": (
        f"{SIZES} {FLAT} m = Mul(n, two) js = Range(zero, m, two) b3 = Unsqueeze(br,"
        f" right) j3 = Unsqueeze(js, left) bk = Mul(b3, n) i = Add(bk, j3) y = Gather(f, i)",
        None,
    ),
    "of one sample": (f"{SIZES} j3 = Unsqueeze(jr, left) f = Reshape(single, all) y = Gather(f, j3)", "single"),
    # no read by index
    "as it is": ("y = Unsqueeze(mask, a1)", None),
    "an axis between": ("y = Identity(cube)", None),
    "of unknown shape": ("y = Identity(vague)", None),
    "by unknown indices": ("y = GatherND(mask, vague)", None),
    "a number": ("y = Identity(k)", None),
    "one row": ("y = Gather(order, order)", None),
}


@pytest.mark.parametrize("case", READS)
def test_read(case: str) -> None:
    nodes, mask = READS[case]
    graph = read(INPUTS, nodes, constants=CONSTANTS)
    masks = [graph[name] for name in ("mask", "small", "single", "narrow", "two_wide")]
    found = mask_read_in_place(graph.view, graph.facts, graph["y"], masks)
    assert found is (None if mask is None else graph[mask])
