"""Indices through operators, one step back."""

from __future__ import annotations

import pytest

from rewriters.finding.index_trace import everything_behind, through
from rewriters.finding.monomials import Monomial, monomial
from rewriters.finding.token_index import Index

from .reading import Reading, read

INPUTS = (
    "float[B,T,12] x, float[B,T,3,4] x4, float[B,3,T,4] h, float[B,T,12] z, float[T,12] low, float[1,T,12] one,"
    " float[B,1,12] row, float[B,S,12] s, float[B,12,K] y2, float[12,T] flat, float[B,C,T] image,"
    " float[B,3,8,9] picture,"
    " float[] unknown, int64[4] to4, int64[3] to3, float[B,1,T] thin, float[6,T] merged, float[2,3,T] apart,"
    " float[B,3,V,W] open_picture"
)
ONES = ",".join("1" * 144)
CONSTANTS = (
    f"float[12,12] w = {{{ONES}}}, float[12] bias = {{{','.join('1' * 12)}}}, int64[1] a1 = {{1}}, int64[1] a2 = {{2}},"
    " int64[1] m1 = {-1}, float[4,3,1,1] point = {1,1,1,1,1,1,1,1,1,1,1,1}, int64[4] split = {0,0,3,4},"
    " int64[3] join = {0,0,12}, int64[2] join2 = {6,-1}, int64[3] apart3 = {2,3,-1}, int64[2] both = {1,2}"
)


def index(graph: Reading, name: str, *axes: int, size: int | None = None) -> Index:
    shape = graph.facts.shapes[graph[name]]
    return Index(graph[name], axes, monomial(shape[axis] for axis in axes) if size is None else Monomial(size))


# node, axes of the index → (value, axes); None: not known
STEPS = {
    # 1. shapes
    "split behind it": ("Reshape(x, split)", (1,), [("x", (1,))]),
    "split over the new axes": ("Reshape(x, split)", (2, 3), [("x", (2,))]),
    "joined behind it": ("Reshape(x4, join)", (1,), [("x4", (1,))]),
    "joined": ("Reshape(x4, join)", (2,), [("x4", (2, 3))]),
    "joined in front": ("Reshape(apart, join2)", (0,), [("apart", (0, 1))]),
    "joined in front, behind it": ("Reshape(apart, join2)", (1,), [("apart", (2,))]),
    "flat": ("Flatten<axis = 2>(x)", (1,), [("x", (2,))]),
    "an axis added": ("Unsqueeze(x, a1)", (2,), [("x", (1,))]),
    "an axis taken away": ("Squeeze(thin, a1)", (1,), [("thin", (2,))]),
    "of unknown shape": ("Reshape(unknown, join)", (2,), None),
    # 2. order
    "turned": ("Transpose<perm = [0,2,1,3]>(x4)", (2,), [("x4", (1,))]),
    "turned, side by side": ("Transpose<perm = [2,0,1,3]>(x4)", (1, 2), [("x4", (0, 1))]),
    "turned, apart": ("Transpose<perm = [0,2,1,3]>(x4)", (0, 1), None),
    "turned, in another order": ("Transpose<perm = [1,0,2,3]>(x4)", (0, 1), None),
    # 3. number by number
    "of one": ("Relu(x)", (1,), [("x", (1,))]),
    "sum": ("Add(x, z)", (1,), [("x", (1,)), ("z", (1,))]),
    "sum with itself": ("Add(x, x)", (1,), [("x", (1,))]),
    "sum with fewer axes": ("Add(x, low)", (1,), [("x", (1,)), ("low", (0,))]),
    "sum with fewer axes, the first": ("Add(x, low)", (0,), [("x", (0,))]),
    "sum with one sample": ("Add(x, one)", (0,), [("x", (0,))]),
    "sum with one row": ("Add(x, row)", (1,), [("x", (1,))]),
    "sum with a constant": ("Add(x, bias)", (2,), [("x", (2,))]),
    "sum over both axes with one row": ("Add(x, row)", (1, 2), [("x", (1, 2)), ("row", (1, 2))]),
    "sum over two axes, of which one operand has one": ("Add(x, bias)", (1, 2), None),
    "sum with the unknown": ("Add(x, unknown)", (1,), None),
    "sum of two lengths": ("Add(x, s)", (1,), [("x", (1,)), ("s", (1,))]),
    "power": ("Pow(x, z)", (1,), [("x", (1,)), ("z", (1,))]),
    "chosen": ("Where(c, x, z)", (1,), [("c", (1,)), ("x", (1,)), ("z", (1,))]),
    "normalized": ("LayerNormalization(x, bias)", (1,), [("x", (1,))]),
    "normalized along it": ("LayerNormalization(x, bias)", (2,), None),
    "normalized from it on": ("LayerNormalization<axis = 1>(x, bias)", (1,), None),
    "normalized behind it": ("LayerNormalization<axis = 1>(x, bias)", (0,), [("x", (0,))]),
    "skipped and normalized": ("com.microsoft.SkipLayerNormalization(x, z, bias)", (1,), [("x", (1,)), ("z", (1,))]),
    "softmax behind it": ("Softmax<axis = 2>(x)", (1,), [("x", (1,))]),
    "softmax from the second axis on, to be safe": ("Softmax(x)", (1,), None),
    "softmax, samples": ("Softmax(x)", (0,), [("x", (0,))]),
    "a stranger": ("local.Strange(x)", (1,), None),
    # 4. products
    "projected": ("MatMul(x, w)", (1,), [("x", (1,))]),
    "projected, sample": ("MatMul(x, w)", (0,), [("x", (0,))]),
    "projected, features": ("MatMul(x, w)", (2,), None),
    "projected, over two axes": ("MatMul(x, w)", (0, 1), [("x", (0, 1))]),
    "projected, weight first": ("MatMul(w, flat)", (1,), [("flat", (1,))]),
    "projected, weight first, features": ("MatMul(w, flat)", (0,), None),
    "product, rows": ("MatMul(x, y2)", (1,), [("x", (1,))]),
    "product, columns": ("MatMul(x, y2)", (2,), [("y2", (2,))]),
    "product, samples": ("MatMul(x, y2)", (0,), [("x", (0,)), ("y2", (0,))]),
    "product, rows of all samples": ("MatMul(x, y2)", (0, 1), None),
    "product with a turned one": ("com.microsoft.FusedMatMul<transB = 1>(x, z)", (2,), [("z", (1,))]),
    "product of a turned one, rows": ("com.microsoft.FusedMatMul<transA = 1>(x, z)", (1,), [("x", (2,))]),
    "product of a turned one, columns": ("com.microsoft.FusedMatMul<transA = 1>(x, z)", (2,), [("z", (2,))]),
    "product with samples moved": ("com.microsoft.FusedMatMul<transBatchA = 1>(x, y2)", (1,), None),
    "product with a bias": ("Gemm(low, w, bias)", (0,), [("low", (0,))]),
    "product with a computed bias": ("Gemm(low, w, other)", (0,), None),
    "nibbles": ("com.microsoft.MatMulNBits<K = 12, N = 4>(x, packed, scales)", (1,), [("x", (1,))]),
    "nibbles, features": ("com.microsoft.MatMulNBits<K = 12, N = 4>(x, packed, scales)", (2,), None),
    # Einsum
    "einsum, rows": ('Einsum<equation = "btc,bck->btk">(x, y2)', (1,), [("x", (1,))]),
    "einsum, columns": ('Einsum<equation = "btc, bck -> btk">(x, y2)', (2,), [("y2", (2,))]),
    "einsum, samples": ('Einsum<equation = "btc,bck->btk">(x, y2)', (0,), [("x", (0,)), ("y2", (0,))]),
    "einsum, weights": ('Einsum<equation = "btc,cd->btd">(x, w)', (2,), None),
    "einsum, two axes": ('Einsum<equation = "btc,bck->btk">(x, y2)', (0, 1), None),
    "einsum, implicit": ('Einsum<equation = "btc,bck">(x, y2)', (0,), None),
    "einsum with an ellipsis": ('Einsum<equation = "...tc,...ck->...tk">(x, y2)', (1,), None),
    # convolutions
    "convolved by points": ("Conv(picture, point)", (2,), [("picture", (2,))]),
    "convolved by points, all places": ("Conv(picture, point)", (2, 3), [("picture", (2, 3))]),
    "convolved by points, of open places": ("Conv(open_picture, point)", (2,), [("open_picture", (2,))]),
    "convolved by a wider kernel, of open places": ("Conv(open_picture, kernel)", (2,), None),
    "convolved, samples": ("Conv(picture, point)", (0,), [("picture", (0,))]),
    "convolved, features": ("Conv(picture, point)", (1,), None),
    "convolved with strides": ("Conv<strides = [2,2]>(picture, point)", (2,), None),
    "convolved with strides of one": ("Conv<strides = [1,1]>(picture, point)", (2,), [("picture", (2,))]),
    "convolved, of the same places": ("Conv<pads = [1,1,1,1]>(picture, kernel)", (2,), [("picture", (2,))]),
    "convolved, of fewer places": ("Conv<kernel_shape = [3,3]>(picture, kernel)", (2,), None),
    "convolved by padded points": ("Conv<pads = [1,1,1,1]>(picture, point)", (2,), None),
    # reductions and repetitions
    "summed behind it": ("ReduceSum(x, m1)", (1,), [("x", (1,))]),
    "summed behind it, gone": ("ReduceSum<keepdims = 0>(x, m1)", (1,), [("x", (1,))]),
    "summed in front, gone": ("ReduceSum<keepdims = 0>(x, a1)", (1,), [("x", (2,))]),
    "summed between, gone": ("ReduceSum<keepdims = 0>(x, a1)", (0, 1), None),
    "all summed": ("ReduceSum(x)", (1,), None),
    "repeated behind it": ("Expand(thin, to3)", (2,), [("thin", (2,))]),
    "repeated along it": ("Expand(thin, to3)", (1,), []),
}  # fmt: skip


@pytest.mark.parametrize("case", STEPS)
def test_step(case: str) -> None:
    node, axes, expected = STEPS[case]
    inputs = (
        f"{INPUTS}, bool[B,T,12] c, float[T,12] other, uint8[4,1,16] packed, float[4] scales, float[3,3,3,3] kernel"
    )
    graph = read(inputs, f"y = {node}", constants=CONSTANTS)
    if node.startswith("Expand"):
        graph.facts.shapes[graph["y"]] = ("B", 5, "T")
    if "unknown)" in node or "Strange" in node:
        graph.facts.shapes[graph["y"]] = ("B", "T", 12)
    if "NBits" in node:
        graph.facts.shapes[graph["y"]] = ("B", "T", 4)
    found = through(graph.view, graph.facts, graph.node("y"), index(graph, "y", *axes))
    assert (None if found is None else [(one.value.name, one.axes) for one in found]) == expected
    for one in found or ():
        assert one == index(graph, str(one.value.name), *one.axes)


# A part of an axis: node, axis and size of the part, its step → axes, size and step in what is read; None: not known
PARTS = {
    "of a joined axis, the outer one": ("Reshape(x4, join)", 2, 3, 4, ((2,), 1)),
    "of a joined axis, the inner one": ("Reshape(x4, join)", 2, 4, 1, ((3,), 1)),
    "of a joined axis, neither": ("Reshape(x4, join)", 2, 2, 3, None),
    "of a joined axis, half of the inner one": ("Reshape(x4, join)", 2, 2, 1, ((3,), 1)),
    "of a joined axis, the outer half of the inner one": ("Reshape(x4, join)", 2, 2, 2, ((3,), 2)),
    "of samples and tokens": ("Reshape(apart, join2)", 0, 3, 1, ((1,), 1)),
    "of the outer of two": ("Reshape(apart, join2)", 0, 2, 3, ((0,), 1)),
}


@pytest.mark.parametrize("case", PARTS)
def test_part(case: str) -> None:
    node, axis, size, inner, expected = PARTS[case]
    graph = read(INPUTS, f"y = {node}", constants=CONSTANTS)
    start = Index(graph["y"], (axis,), Monomial(size), Monomial(inner))
    found = through(graph.view, graph.facts, graph.node("y"), start)
    assert (None if found is None else (found[0].axes, found[0].inner.number)) == expected
    assert not found or found[0].size == Monomial(size)


def test_a_split_axis_is_a_part_of_what_it_was() -> None:
    graph = read(INPUTS, "y = Reshape(x, split)", constants=CONSTANTS)
    heads, inner = (through(graph.view, graph.facts, graph.node("y"), index(graph, "y", axis)) for axis in (2, 3))
    assert heads == [Index(graph["x"], (2,), Monomial(3), Monomial(4))]
    assert inner == [Index(graph["x"], (2,), Monomial(4), Monomial(1))]


def test_a_part_of_a_sum_of_two_lengths_is_not_known() -> None:
    graph = read(INPUTS, "y = Add(x, s)")
    start = Index(graph["y"], (1,), Monomial(2))
    assert through(graph.view, graph.facts, graph.node("y"), start) is None


def test_one_operand_may_be_asked_for() -> None:
    graph = read(INPUTS, "y = Add(x, low)")
    found = through(graph.view, graph.facts, graph.node("y"), index(graph, "y", 1), graph["low"])
    assert found == [index(graph, "low", 0)]


def test_a_dimension_of_nothing_ends_the_trace() -> None:
    graph = read("float[B,0,12] x", "y = Relu(x)")
    assert through(graph.view, graph.facts, graph.node("y"), index(graph, "y", 2)) is None


def test_a_function_ends_the_trace_at_its_call() -> None:
    rest = '<domain: "local", opset_import: ["" : 17]> Relu (a) => (b) { b = Relu(a) }'
    graph = read(INPUTS, "y = local.Relu(x)", rest=rest)
    assert through(graph.view, graph.facts, graph.node("y"), index(graph, "y", 1)) is None
    behind = list(everything_behind(graph.view, graph.facts, index(graph, "y", 1)))
    assert [one.value.name for one in behind] == ["y", "b", "a", "x"]


def test_a_second_output_ends_the_trace() -> None:
    graph = read(INPUTS, "z1, y = Dropout(x)")
    assert through(graph.view, graph.facts, graph.node("y"), index(graph, "y", 1)) is None


def test_everything_behind_is_found_once_and_nearest_first() -> None:
    graph = read(INPUTS, "a = Relu(x) b = Add(a, x) y = Add(a, b)")
    found = list(everything_behind(graph.view, graph.facts, index(graph, "y", 1)))
    assert [one.value.name for one in found] == ["y", "a", "b", "x"]
    assert list(everything_behind(graph.view, graph.facts, None)) == []
