"""Indices through operators that take entries out of a value."""

from __future__ import annotations

import pytest

from rewriters.finding.index_picks import picked
from rewriters.finding.monomials import ONE, Monomial, monomial
from rewriters.finding.token_index import Index

from .reading import Reading, read

INPUTS = (
    "float[B,T,8] x, float[B,3,8] z, int64[N] ids, int64[B,S] table_ids, int64 one, int64[1] given, float[] strange"
)
CONSTANTS = (
    "int64[2] rows = {0,1}, int64[1] a0 = {0}, int64[1] a1 = {1}, int64[1] a2 = {2}, int64[1] m1 = {-1}, "
    " int64[1] m2 = {-2}, int64[1] five = {5}, int64[3] three = {0,1,2}, int64[6] right = {0,0,0,0,1,0},"
    " int64[6] left = {0,2,0,0,0,0},"
    " int64[6] both = {0,1,0,0,1,0}, int64[5] wrong = {0,1,0,0,1}, float[1,1,2] part = {1,2},"
    " float[2,3] table = {1,2,3,4,5,6}"
)


def of(graph: Reading, value: str, *axes: int, size: Monomial | None = None) -> Index:
    shape = graph.facts.shapes[graph[value]]
    return Index(graph[value], axes, monomial(shape[axis] for axis in axes) if size is None else size)


def step(graph: Reading, *axes: int, size: Monomial | None = None) -> list[Index] | None:
    return picked(graph.view, graph.facts, graph.node("y"), of(graph, "y", *axes, size=size))


# node, axes of the index → (value, axes) that it leads to with what was picked noted (True) or not; None: not known
PICKS = {
    # Gather of data
    "gathered, axis in front": ("Gather<axis = 1>(x, ids)", (0,), [("x", (0,), False)]),
    "gathered, axis behind": ("Gather<axis = 1>(x, ids)", (2,), [("x", (2,), False)]),
    "gathered, two axes behind": ("Gather<axis = 0>(x, ids)", (1, 2), [("x", (1, 2), False)]),
    "one gathered, axis behind": ("Gather<axis = 1>(x, one)", (1,), [("x", (2,), False)]),
    "two axes gathered, axis behind": ("Gather<axis = 0>(x, table_ids)", (2,), [("x", (1,), False)]),
    "two axes gathered, axis in front": ("Gather<axis = 1>(x, table_ids)", (0,), [("x", (0,), False)]),
    "gathered along it": ("Gather<axis = 1>(x, ids)", (1,), [("x", (1,), True)]),
    "gathered along it, from the right": ("Gather<axis = -2>(x, ids)", (1,), [("x", (1,), True)]),
    "gathered along the first axis": ("Gather(x, ids)", (0,), [("x", (0,), True)]),
    "two axes gathered along it": ("Gather<axis = 1>(x, table_ids)", (2,), None),
    "over gathered axes and others": ("Gather<axis = 1>(x, ids)", (0, 1), None),
    "over gathered axes and one behind": ("Gather<axis = 1>(x, ids)", (1, 2), None),
    "gathered by indices of unknown rank": ("Gather<axis = 1>(x, strange_ids)", (0,), None),
    # Gather of a table
    "looked up": ("Gather(table, table_ids)", (0,), [("table_ids", (0,), False)]),
    "looked up, second axis": ("Gather(table, table_ids)", (1,), [("table_ids", (1,), False)]),
    "looked up along the second axis": ("Gather<axis = 1>(table, table_ids)", (1,), [("table_ids", (0,), False)]),
    "looked up, features": ("Gather(table, table_ids)", (2,), []),
    "looked up by constants": ("Gather(table, rows)", (0,), []),
    # Slice
    "cut along it": ("Slice(x, a0, five, a1)", (1,), [("x", (1,), True)]),
    "cut along it, from the right": ("Slice(x, a0, five, m2)", (1,), [("x", (1,), True)]),
    "cut elsewhere": ("Slice(x, a0, five, a1)", (2,), [("x", (2,), False)]),
    "cut without axes": ("Slice(x, a0, five)", (0,), [("x", (0,), True)]),
    "cut elsewhere without axes": ("Slice(x, a0, five)", (1,), [("x", (1,), False)]),
    "cut along somewhere": ("Slice(x, a0, five, given)", (1,), None),
    "cut from somewhere, without axes": ("Slice(x, given, five)", (0,), None),
    "over the cut axis and another": ("Slice(x, a0, five, a1)", (1, 2), None),
    "over axes that are not cut": ("Slice(x, a0, five, a0)", (1, 2), [("x", (1, 2), False)]),
    # Split
    "split along it": ("Split<axis = 2>(x)", (2,), [("x", (2,), True)]),
    "split along the first axis": ("Split(x)", (0,), [("x", (0,), True)]),
    "split elsewhere": ("Split<axis = -1>(x)", (1,), [("x", (1,), False)]),
    # Concat
    "stacked elsewhere": ("Concat<axis = 1>(x, z)", (0,), [("x", (0,), False), ("z", (0,), False)]),
    "stacked along it": ("Concat<axis = 1>(x, z)", (1,), [("x", (1,), True), ("z", (1,), True)]),
    "stacked with a constant": ("Concat<axis = 1>(x, part)", (1,), [("x", (1,), True)]),
    "stacked along it, from the right": ("Concat<axis = -2>(x, z)", (2,), [("x", (2,), False), ("z", (2,), False)]),
    "stacked with the unknown": ("Concat<axis = 1>(x, strange)", (0,), None),
    # Pad
    "padded along it": ("Pad(x, right)", (1,), [("x", (1,), True)]),
    "padded along it, on the left": ("Pad(x, left)", (1,), [("x", (1,), True)]),
    "padded elsewhere": ("Pad(x, both)", (2,), [("x", (2,), False)]),
    "padded in front elsewhere": ("Pad(x, both)", (0,), [("x", (0,), False)]),
    "padded by the wrong number": ("Pad(x, wrong)", (2,), None),
    "padded somehow": ("Pad(x, given)", (2,), None),
}


@pytest.mark.parametrize("case", PICKS)
def test_pick(case: str) -> None:
    node, axes, expected = PICKS[case]
    graph = read(f"{INPUTS}, int64[] strange_ids", f"y = {node}", constants=CONSTANTS)
    shape = {**graph.facts.shapes}.get(graph["y"]) or (2, 4, 6, 8)
    graph.facts.shapes[graph["y"]] = shape
    found = step(graph, *axes)
    assert (
        None if found is None else [(index.value.name, index.axes, bool(index.picks)) for index in found]
    ) == expected
    for index in found or ():
        old = graph.facts.shapes[index.value]
        assert index.size == monomial(old[axis] for axis in index.axes) and index.inner == ONE


@pytest.mark.parametrize("missing", ["y", "x"])
def test_nothing_is_known_without_shapes(missing: str) -> None:
    graph = read(INPUTS, "y = Slice(x, a0, five, a1)", constants=CONSTANTS)
    index = of(graph, "y", 1)
    del graph.facts.shapes[graph[missing]]
    assert picked(graph.view, graph.facts, graph.node("y"), index) is None


def test_a_part_of_a_picked_axis_is_not_known() -> None:
    graph = read(INPUTS, "y = Slice(x, a0, five, a2)", constants=CONSTANTS)
    assert step(graph, 2, size=Monomial(2)) is None


def test_parts_of_other_axes_stay_parts() -> None:
    graph = read(INPUTS, "y = Slice(x, a0, five, a1)", constants=CONSTANTS)
    (found,) = step(graph, 2, size=Monomial(2)) or ()
    assert found.size == Monomial(2)


def picks(nodes: str, *axes: int, opset: int = 17) -> list[tuple[object, ...]]:
    graph = read(f"{INPUTS}, int64[1] other", nodes, constants=CONSTANTS, opset=opset)
    return [
        index.picks
        for name in ("y", "w")
        for index in picked(graph.view, graph.facts, graph.node(name), of(graph, name, *axes)) or ()
    ]


ALIKE = {
    "equal slices": ("y = Slice(x, a0, five, a1) w = Slice(x, a0, five, a1)", 1, True),
    "slices from elsewhere": ("y = Slice(x, a0, five, a1) w = Slice(x, a1, five, a1)", 1, False),
    "slices from the same unknown place": ("y = Slice(x, given, five, a1) w = Slice(x, given, five, a1)", 1, True),
    "slices from two unknown places": ("y = Slice(x, given, five, a1) w = Slice(x, other, five, a1)", 1, False),
    "equal gathers": ("y = Gather<axis = 1>(x, rows) w = Gather<axis = 1>(x, rows)", 1, True),
    "other gathers": ("y = Gather<axis = 1>(x, rows) w = Gather<axis = 1>(x, three)", 1, False),
    "gather and slice": ("y = Gather<axis = 1>(x, three) w = Slice(x, a0, three, a1)", 1, False),
    "two parts of a split": ("y, w = Split<axis = 2>(x)", 2, False),
    "first parts of two equal splits": ("y, s = Split<axis = 2>(x) w, t = Split<axis = 2>(x)", 2, True),
    "splits into other numbers": ("y, s = Split<axis = 2>(x) w, t, u, v = Split<axis = 2>(x)", 2, False),
    "equal paddings": ("y = Pad(x, right) w = Pad(x, right)", 1, True),
    "other paddings": ("y = Pad(x, right) w = Pad(x, left)", 1, False),
}


@pytest.mark.parametrize("case", ALIKE)
def test_picks_are_alike_where_they_take_the_same_entries(case: str) -> None:
    nodes, axis, alike = ALIKE[case]
    first, second = picks(nodes, axis)
    assert (first == second) is alike


@pytest.mark.parametrize(
    ("nodes", "alike"),
    [
        ("y = Slice<starts = [0], ends = [2], axes = [1]>(x) w = Slice<starts = [0], ends = [2], axes = [1]>(x)", True),
        (
            "y = Slice<starts = [0], ends = [2], axes = [1]>(x) w = Slice<starts = [1], ends = [2], axes = [1]>(x)",
            False,
        ),
        (
            "y = Slice<starts = [0], ends = [2], axes = [1]>(x) w = Slice<starts = [0], ends = [3], axes = [1]>(x)",
            False,
        ),
        ("y = Slice<starts = [0, 0], ends = [1, 2]>(x) w = Slice<starts = [0, 0], ends = [1, 2]>(x)", True),
        ("y = Pad<pads = [0,1,0,0,0,0]>(x) w = Pad<pads = [0,2,0,0,0,0]>(x)", False),
    ],
)
def test_settings_of_old_opsets(nodes: str, alike: bool) -> None:
    first, second = picks(nodes, 1, opset=9)
    assert (first == second) is alike


@pytest.mark.parametrize(
    ("nodes", "alike"),
    [
        ("y = Concat<axis = 1>(z, x) w = Concat<axis = 1>(z2, x)", True),
        ("y = Concat<axis = 1>(z, x) w = Concat<axis = 1>(z4, x)", False),
        ("y = Concat<axis = 1>(x, z) w = Concat<axis = 1>(z, x)", False),
        ("y = Concat<axis = 1>(x, z) w = Concat<axis = 1>(x, z4)", True),
    ],
)
def test_a_part_of_a_concat_begins_behind_those_before_it(nodes: str, alike: bool) -> None:
    graph = read(f"{INPUTS}, float[B,3,8] z2, float[B,4,8] z4", nodes)
    first, second = (
        next(
            index.picks
            for index in picked(graph.view, graph.facts, graph.node(name), of(graph, name, 1)) or ()
            if index.value is graph["x"]
        )
        for name in ("y", "w")
    )
    assert (first == second) is alike
