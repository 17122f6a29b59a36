"""One axis, followed through one operator."""

from __future__ import annotations

import pytest

from rewriters.finding.axes import Lost, Moved, track

from .reading import read

MAP = "float[2,3,Q,K] p"
AXIS, OPERATOR, SHAPE = Lost("axis"), Lost("operator"), Lost("shape")

# inputs, node that makes y, input index, axis → where it is
STEPS = {
    # 1. Element-wise operators
    "unary": (MAP, "y = Relu(p)", 0, -1, Moved(-1)),
    "unary, not its data": (f"{MAP}, int64[4] s", "y = Expand(p, s)", 1, -1, OPERATOR),
    "another operator": (MAP, "y = Sin(p)", 0, -1, OPERATOR),
    "second operand": (f"{MAP}, float[2,3,Q,K] m", "y = Sub(m, p)", 1, -1, Moved(-1)),
    "divided by": (f"{MAP}, float[2,3,Q,K] m", "y = Div(m, p)", 1, -1, OPERATOR),
    "divided": (f"{MAP}, float[2,3,Q,K] m", "y = Div(p, m)", 0, -1, Moved(-1)),
    "exponent": (f"{MAP}, float[2,3,Q,K] m", "y = Pow(m, p)", 1, -1, OPERATOR),
    "condition": (f"bool[2,3,Q,K] c, {MAP}", "y = Where(c, p, p)", 0, -1, OPERATOR),
    "chosen": (f"bool[1,1,1,K] c, {MAP}, float m", "y = Where(c, m, p)", 2, -2, Moved(-2)),
    "chosen by more": (f"bool[5,2,3,Q,K] c, {MAP}, float m", "y = Where(c, m, p)", 2, -2, SHAPE),
    "greatest": (f"float[K] m, {MAP}", "y = Max(m, p)", 1, -1, Moved(-1)),
    "least": (f"float[K] m, {MAP}", "y = Min(m, p)", 1, -1, Moved(-1)),
    "of one": (f"{MAP}, float[1,1,1,1] m", "y = Mul(p, m)", 0, -1, Moved(-1)),
    "of fewer axes": (f"{MAP}, float[3,1,K] m", "y = Mul(p, m)", 0, -1, Moved(-1)),
    "broadcast to more samples": ("float[1,3,Q,K] p, float[2,3,Q,K] m", "y = Mul(p, m)", 0, -1, SHAPE),
    "broadcast to more columns": ("float[2,3,Q,1] p, float[2,3,Q,K] m", "y = Mul(p, m)", 0, -1, SHAPE),
    "broadcast to a higher rank": (f"{MAP}, float[1,2,3,Q,K] m", "y = Mul(p, m)", 0, -1, SHAPE),
    "two names may be one size": (f"{MAP}, float[2,3,Q,T] m", "y = Add(p, m)", 0, -1, Moved(-1)),
    "a name may be a number": (f"{MAP}, float[2,3,Q,7] m", "y = Add(p, m)", 0, -1, Moved(-1)),
    "a number may be a name": ("float[2,3,6,7] p, float[2,3,6,K] m", "y = Add(p, m)", 0, -1, Moved(-1)),
    "nothing known of the other": (f"{MAP}, float[] m", "y = Add(p, m)", 0, -1, Moved(-1, assumed=True)),
    "nothing known of the map": ("float[] p, float[K] m", "y = Add(p, m)", 0, -1, Moved(-1, assumed=True)),
    "greatest of itself, rank unknown": ("float[] p", "y = Max(p)", 0, -1, Moved(-1)),
    # 2. Layout
    "transposed": (MAP, "y = Transpose<perm = [0,2,1,3]>(p)", 0, -2, Moved(-3)),
    "transposed, last": (MAP, "y = Transpose<perm = [3,0,1,2]>(p)", 0, -1, Moved(-4)),
    "transposed, first": (MAP, "y = Transpose<perm = [0,2,1,3]>(p)", 0, -4, Moved(-4)),
    "transposed, axis left out": ("float[] p", "y = Transpose<perm = [0,0,1]>(p)", 0, -1, AXIS),
    "transposed without order": (MAP, "y = Transpose(p)", 0, -1, Moved(-4)),
    "transposed, rank unknown": ("float[] p", "y = Transpose(p)", 0, -1, AXIS),
    "transposed, no such axis": ("float[Q,K] p", "y = Transpose<perm = [1,0]>(p)", 0, -3, AXIS),
    "axis added behind": (f"{MAP}", "a = Constant<value_ints = [-1]>() y = Unsqueeze(p, a)", 0, -1, Moved(-2)),
    "axis added before": (MAP, "a = Constant<value_ints = [3]>() y = Unsqueeze(p, a)", 0, -1, Moved(-1)),
    "axes added on both sides": (MAP, "a = Constant<value_ints = [0,-1]>() y = Unsqueeze(p, a)", 0, -2, Moved(-3)),
    "axis added, rank unknown": (
        "float[] p",
        "a = Constant<value_ints = [-2]>() y = Unsqueeze(p, a)",
        0,
        -2,
        Moved(-3),
    ),
    "axis added, far axis, rank unknown": (
        "float[] p",
        "a = Constant<value_ints = [-1]>() y = Unsqueeze(p, a)",
        0,
        -9,
        Moved(-10),
    ),
    "axis added from the left, rank unknown": (
        "float[] p",
        "a = Constant<value_ints = [1]>() y = Unsqueeze(p, a)",
        0,
        -1,
        AXIS,
    ),
    "axis 0 added, rank unknown": ("float[] p", "a = Constant<value_ints = [0]>() y = Unsqueeze(p, a)", 0, -1, AXIS),
    "axis added somewhere": (f"{MAP}, int64[1] a", "y = Unsqueeze(p, a)", 0, -1, AXIS),
    "axes of an Unsqueeze": (f"{MAP}, int64[1] a", "y = Unsqueeze(p, a)", 1, -1, OPERATOR),
    "axis added, no such axis": ("float[K] p", "a = Constant<value_ints = [0]>() y = Unsqueeze(p, a)", 0, -2, AXIS),
    "axis taken away behind": (
        "float[2,Q,K,1] p",
        "a = Constant<value_ints = [-1]>() y = Squeeze(p, a)",
        0,
        -2,
        Moved(-1),
    ),
    "axis taken away before": (
        "float[2,1,Q,K] p",
        "a = Constant<value_ints = [1]>() y = Squeeze(p, a)",
        0,
        -2,
        Moved(-2),
    ),
    "first axis, another taken away": (
        "float[2,1,Q,K] p",
        "a = Constant<value_ints = [1]>() y = Squeeze(p, a)",
        0,
        -4,
        Moved(-3),
    ),
    "this axis taken away": ("float[2,Q,K,1] p", "a = Constant<value_ints = [-1]>() y = Squeeze(p, a)", 0, -1, AXIS),
    "flattened": ("float[2,3,K] p", "y = Flatten<axis = 2>(p)", 0, -1, Moved(-1)),
    "flattened into others": ("float[2,3,4] p", "y = Flatten<axis = 1>(p)", 0, -1, AXIS),
    # 4. Parts
    "gathered elsewhere": (f"{MAP}, int64[5] i", "y = Gather<axis = 1>(p, i)", 0, -1, Moved(-1)),
    "gathered elsewhere, in front": (f"{MAP}, int64[5] i", "y = Gather<axis = 1>(p, i)", 0, -4, Moved(-4)),
    "one gathered, in front": (f"{MAP}, int64 i", "y = Gather<axis = 2>(p, i)", 0, -3, Moved(-2)),
    "one gathered, behind": (f"{MAP}, int64 i", "y = Gather<axis = 1>(p, i)", 0, -2, Moved(-2)),
    "two axes gathered, in front": (f"{MAP}, int64[5,5] i", "y = Gather<axis = 3>(p, i)", 0, -2, Moved(-3)),
    "gathered along the first axis": (f"{MAP}, int64[5] i", "y = Gather(p, i)", 0, -1, Moved(-1)),
    "gathered along the axis": (f"{MAP}, int64[5] i", "y = Gather<axis = -1>(p, i)", 0, -1, AXIS),
    "gathered along the axis, by default": (f"{MAP}, int64[5] i", "y = Gather(p, i)", 0, -4, AXIS),
    "gathered along no axis": (f"{MAP}, int64[5] i", "y = Gather<axis = -5>(p, i)", 0, -1, AXIS),
    "gathered along an axis too many": (f"{MAP}, int64[5] i", "y = Gather<axis = 4>(p, i)", 0, -1, AXIS),
    "gathered along the furthest axis": (f"{MAP}, int64[5] i", "y = Gather<axis = -4>(p, i)", 0, -1, Moved(-1)),
    "gathered by unknown indices": (f"{MAP}, int64[] i", "y = Gather<axis = 1>(p, i)", 0, -1, AXIS),
    "gathered, rank unknown": ("float[] p, int64[5] i", "y = Gather<axis = 1>(p, i)", 0, -1, AXIS),
    "as indices": ("float[9] t, int64[2,K] p", "y = Gather(t, p)", 1, -1, OPERATOR),
    "split elsewhere": ("float[2,4,Q,K] p", "y, z = Split<axis = 1>(p)", 0, -1, Moved(-1)),
    "split behind": ("float[2,4,Q,8] p", "y, z = Split<axis = -1>(p)", 0, -4, Moved(-4)),
    "split along the axis": ("float[2,4,Q,8] p", "y, z = Split<axis = -1>(p)", 0, -1, AXIS),
    "stacked": (f"{MAP}, float[2,3,Q,K] m", "y = Concat<axis = 1>(m, p)", 1, -1, Moved(-1)),
    "stacked along the axis": (f"{MAP}, float[2,3,Q,5] m", "y = Concat<axis = 3>(p, m)", 0, -1, AXIS),
}


@pytest.mark.parametrize("case", STEPS)
def test_step(case: str) -> None:
    inputs, nodes, index, axis, expected = STEPS[case]
    graph = read(inputs, nodes)
    assert track(graph.facts, graph.node("y"), index, axis) == expected


# 3. Reshape: source, target, axis → where it is
RESHAPES = {
    "one axis split off in front": ("6,Q,K", "2,3,Q,K", -1, Moved(-1)),
    "rows, the same behind them": ("6,Q,K", "2,3,Q,K", -2, Moved(-2)),
    "split behind": ("B,Q,12", "B,Q,3,4", -2, Moved(-3)),
    "the same before": ("B,Q,12", "B,Q,3,4", -3, Moved(-4)),
    "equal before, other behind": ("B,6,2,3", "B,6,6", -3, Moved(-2)),
    "equal size, other place": ("3,4,5", "4,3,5", -2, AXIS),
    "equal names, other numbers behind": ("K,2,3", "K,6", -3, Moved(-2)),
    "a name twice": ("B,B,K", "B,B,K", -3, Moved(-3)),
    "merged": ("B,2,K", "B,C", -2, AXIS),
    "last axis split": ("B,Q,12", "B,Q,3,4", -1, AXIS),
    "last axis, unknown size": ("B,Q,12", "B,R,N", -1, Moved(-1, assumed=True)),
    "last axis of unknown size": ("B,Q,K", "B,R,12", -1, Moved(-1, assumed=True)),
    "not the last, unknown sizes": ("B,Q,K", "B,R,N", -2, AXIS),
    "other names in front": ("B,Q,K", "N,Q,K", -2, Moved(-2)),
    "other names behind": ("B,Q,K", "B,Q,N,M", -2, Moved(-3)),
    "last axis, number before an unknown size": ("B,Q,12", "B,3,N", -1, Moved(-1, assumed=True)),
    "no such axis": ("Q,K", "Q,K", -3, AXIS),
}


@pytest.mark.parametrize("case", RESHAPES)
def test_reshape(case: str) -> None:
    source, target, axis, expected = RESHAPES[case]
    graph = read(f"float[{source}] p, int64[n] s", "y = Reshape(p, s)")
    dims = tuple(int(dim) if dim.isdigit() else dim for dim in target.split(",") if dim)
    graph.facts.shapes[graph["y"]] = dims
    assert track(graph.facts, graph.node("y"), 0, axis) == expected


def test_a_reshape_of_unknown_rank_keeps_at_most_the_last_axis() -> None:
    graph = read("float[] p, int64[n] s", "y = Reshape(p, s)")
    assert track(graph.facts, graph.node("y"), 0, -1) == Moved(-1, assumed=True)
    assert track(graph.facts, graph.node("y"), 0, -2) == AXIS
    assert track(graph.facts, graph.node("y"), 1, -1) == OPERATOR


@pytest.mark.parametrize(("source", "expected"), [("1", AXIS), ("K", Moved(-1, assumed=True))])
def test_of_a_reshape_to_a_single_number(source: str, expected: Moved | Lost) -> None:
    graph = read(f"float[{source}] p", "s = Constant<value_ints: ints = []>() y = Reshape(p, s)")
    assert track(graph.facts, graph.node("y"), 0, -1) == expected


def test_a_reshape_of_unknown_rank_to_a_known_one() -> None:
    graph = read("float[] p", "s = Constant<value_ints = [2,3]>() y = Reshape(p, s)")
    assert track(graph.facts, graph.node("y"), 0, -1) == Moved(-1, assumed=True)
    assert track(graph.facts, graph.node("y"), 0, -2) == AXIS
