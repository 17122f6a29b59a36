"""Whether the columns of a map are those of its scores, each in its place."""

from __future__ import annotations

import pytest

from rewriters.finding.backward import Scores, find_scores
from rewriters.finding.columns import keeps_columns
from rewriters.finding.forward import follow_map
from rewriters.finding.softmax_match import Anchor, read_anchor

from .reading import Reading, read

INPUTS = (
    "float[2,3,5,4] q, float[2,3,4,7] k, float[2,3,5,7] a7, float[2,3,5,1] a1, float[2,3,9,4] v9, float[2,3,8,4] v8,"
    " float[2,3,7,4] v7, float[2,3,6,4] v6, float[2,6,7,4] v, float[2,3,5,K] an, int64[3] i, int64[1] c"
)
CONSTANTS = (
    "int64[1] m1 = {-1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},"
    " int64[1] six = {6}, int64[1] seven = {7}, int64[1] nine = {9}, int64[8] front = {0,0,0,1,0,0,0,0},"
    " int64[8] behind = {0,0,0,0,0,0,0,1}, int64[8] rows = {0,0,0,0,0,0,1,0}, int64[8] above = {0,0,1,0,0,0,0,0},"
    " int64[2] short = {0,0}"
)

# before the Softmax, after it, values → whether they are
WAYS = {
    "nothing between": ("s = Identity(x)", "y = Identity(p)", "v7", True),
    "added": ("s = Add(x, a7)", "y = Identity(p)", "v7", True),
    "a column in front, cut off again": (
        "s = Concat<axis = 3>(a1, x)",
        "y = Slice(p, one, nine, m1)",
        "v7",
        True,
    ),
    "a column in front, cut off again, axis from the left": (
        "s = Concat<axis = 3>(a1, x)",
        "y = Slice(p, one, nine, three)",
        "v7",
        True,
    ),
    "a column in front, axis from the right": (
        "s = Concat<axis = -1>(a1, x)",
        "y = Slice(p, one, nine, m1)",
        "v7",
        True,
    ),
    "a column in front that stays": ("s = Concat<axis = 3>(a1, x)", "y = Identity(p)", "v8", False),
    "a column in front, and the last one cut off": (
        "s = Concat<axis = 3>(a1, x)",
        "y = Slice(p, zero, seven, m1)",
        "v7",
        False,
    ),
    "a column behind, cut off again": ("s = Concat<axis = 3>(x, a1)", "y = Slice(p, zero, seven, m1)", "v7", True),
    "a column behind that stays": ("s = Concat<axis = 3>(x, a1)", "y = Identity(p)", "v8", False),
    "columns of unknown number in front": (
        "s = Concat<axis = 3>(an, x)",
        "y = Slice(p, one, nine, m1)",
        "v7",
        False,
    ),
    "columns of unknown number in front, the first ones kept": (
        "s = Concat<axis = 3>(an, x)",
        "y = Slice(p, zero, seven, m1)",
        "v7",
        False,
    ),
    "padded in front, cut off again": ("s = Pad(x, front)", "y = Slice(p, one, nine, m1)", "v7", True),
    "padded in front": ("s = Pad(x, front)", "y = Identity(p)", "v8", False),
    "padded behind, cut off again": ("s = Pad(x, behind)", "y = Slice(p, zero, seven, m1)", "v7", True),
    "padded behind": ("s = Pad(x, behind)", "y = Identity(p)", "v8", False),
    "padded rows": ("s = Pad(x, rows)", "y = Identity(p)", "v7", True),
    "padded rows above": ("s = Pad(x, above)", "y = Identity(p)", "v7", True),
    "padded somehow": ("s = Pad(x, short)", "y = Identity(p)", "v7", False),
    "map padded in front, scores cut": ("s = Slice(x, one, nine, m1)", "y = Pad(p, front)", "v7", True),
    "map padded behind, scores cut in front": ("s = Slice(x, one, nine, m1)", "y = Pad(p, behind)", "v7", False),
    "scores cut behind": ("s = Slice(x, zero, six, m1)", "y = Identity(p)", "v6", True),
    "scores cut in front": ("s = Slice(x, one, nine, m1)", "y = Identity(p)", "v6", False),
    "rows cut in front": ("s = Slice(x, one, nine, two)", "y = Identity(p)", "v7", True),
    "cut without axes": ("s = Slice(x, zero, nine)", "y = Identity(p)", "v7", False),
    "cut somewhere": ("s = Slice(x, c, nine, m1)", "y = Identity(p)", "v7", False),
    "cut from the right": ("s = Slice(x, m1, nine, m1)", "y = Identity(p)", "v7", False),
    "every one": ("s = Slice(x, zero, nine, m1, one)", "y = Identity(p)", "v7", True),
    "every second": ("s = Slice(x, zero, nine, m1, two)", "y = Identity(p)", "v7", False),
    "by an unknown step": ("s = Slice(x, zero, nine, m1, c)", "y = Identity(p)", "v7", False),
    "columns chosen": ("s = Gather<axis = 3>(x, i)", "y = Identity(p)", "v6", False),
    "heads chosen": ("s = Gather<axis = 1>(x, i)", "y = Identity(p)", "v7", True),
    "heads split, the first": ("s, t = Split<axis = 0>(x)", "y = Identity(p)", "v7", True),
    "columns split": ("s, t = Split<axis = 3>(x)", "y = Identity(p)", "v6", False),
    "heads stacked": ("s = Identity(x)", "r = Softmax<axis = -1>(a7) y = Concat<axis = 1>(p, r)", "v", False),
    "activated on the way": ("z = Tanh(x) s = Concat<axis = 3>(a1, z)", "y = Slice(p, one, nine, m1)", "v7", True),
    "transposed on the way": (
        "w = Concat<axis = 3>(a1, x) t = Transpose<perm = [0,2,1,3]>(w) s = Transpose<perm = [0,2,1,3]>(t)",
        "y = Slice(p, one, nine, m1)",
        "v7",
        True,
    ),
    "flat on the way": (
        "w = Concat<axis = 3>(a1, x) f = Flatten<axis = 0>(w) s = Reshape(f, c4)",
        "y = Slice(p, one, nine, m1)",
        "v7",
        False,
    ),
}


@pytest.mark.parametrize("case", WAYS)
def test_columns(case: str) -> None:
    before, after, values, kept = WAYS[case]
    constants = CONSTANTS + ", int64[4] c4 = {2,3,5,8}"
    graph = read(
        INPUTS, f"x = MatMul(q, k) {before} p = Softmax<axis = -1>(s) {after} o = MatMul(y, {values})", "", constants
    )
    assert answer(graph) is kept


def answer(graph: Reading) -> bool:
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    scores = find_scores(graph.view, graph.facts, anchor)
    assert isinstance(scores, Scores)
    (hit,) = follow_map(graph.view, graph.facts, anchor).hits
    return keeps_columns(graph.view, graph.facts, anchor, hit, scores)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("s = Pad<pads = [0,0,0,1,0,0,0,0]>(x)", "y = Slice<axes = [3], starts = [1], ends = [9]>(p)", True),
        ("s = Pad<pads = [0,0,0,1,0,0,0,0]>(x)", "y = Slice<axes = [-1], starts = [1], ends = [9]>(p)", True),
        ("s = Pad<pads = [0,0,0,1,0,0,0,0]>(x)", "y = Slice<axes = [3], starts = [0], ends = [7]>(p)", False),
        ("s = Pad<pads = [0,0,0,0,0,0,0,1]>(x)", "y = Slice<axes = [3], starts = [0], ends = [7]>(p)", True),
        ("s = Identity(x)", "y = Slice<axes = [2,3], starts = [1,0], ends = [5,9]>(p)", True),
    ],
)
def test_settings_of_old_opsets(before: str, after: str, kept: bool) -> None:
    graph = read(
        INPUTS, f"x = MatMul(q, k) {before} p = Softmax<axis = 3>(s) {after} o = MatMul(y, v7)", "", CONSTANTS, opset=9
    )
    assert answer(graph) is kept
