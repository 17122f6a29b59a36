"""The shape of each operator's output, as it follows from what goes in; "?" stands for a size that nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from ..patterns import ints, weight
from .graph_text import read

X = "float[B,S,6] x, float[B,4,S,6] y, float[6,8] w, float[1,S,1] one_row, float[M,6] m, int64[N] n, int64[R] r, z"
"""x and y are of known ranks; nothing is known of z, nor of what n holds; R is the length of a shape."""

RULES = {
    "same-as-first": ("out = Softmax(x)", ("B", "S", 6)),
    "same-as-first-unknown": ("out = Softmax(z)", None),
    "broadcast": ("out = Add(x, one_row)", ("B", "S", 6)),
    "broadcast-the-other-way": ("out = Add(one_row, x)", ("B", "S", 6)),
    "broadcast-of-unlike-rank": ("out = Mul(w6, y)", ("B", 4, "S", 6)),
    "broadcast-number-wins": ("out = Add(x, m)", ("B", "?", 6)),
    "broadcast-number-over-name": ("out = Add(x, five)", ("B", 5, 6)),
    "broadcast-ones": ("out = Add(one_row, one_row)", (1, "S", 1)),
    "broadcast-with-unknown": ("out = Add(x, z)", None),
    "broadcast-unknown-first": ("out = Add(z, x)", None),
    "where": ("less = Less(x, x) out = Where(less, one_row, x)", ("B", "S", 6)),
    "qlinear-add": ("out = com.microsoft.QLinearAdd(x, w6, w6, one_row, w6, w6, w6, w6)", ("B", "S", 6)),
    "matmul": ("out = MatMul(x, w)", ("B", "S", 8)),
    "matmul-of-batches": ("t = Transpose<perm = [0, 1, 3, 2]>(y) out = MatMul(y, t)", ("B", 4, "S", "S")),
    "matmul-of-a-vector": ("out = MatMul(x, w6)", None),
    "matmul-from-a-vector": ("out = MatMul(w6, w)", None),
    "matmul-unknown": ("out = MatMul(x, z)", None),
    "matmul-unknown-first": ("out = MatMul(z, w)", None),
    "qlinear-matmul": ("out = QLinearMatMul(x, w6, w6, w, w6, w6, w6, w6)", ("B", "S", 8)),
    "gemm-transposed": ("out = Gemm<transA = 1, transB = 1>(w, m)", (8, "M")),
    "fused-transposes-batch": ("out = com.microsoft.FusedMatMul<transBatchA = 1>(y, w)", (4, "S", "B", 8)),
    "fused-transposes-b": ("out = com.microsoft.FusedMatMul<transBatchB = 1, transB = 1>(w8, y)", (4, "S", 7, "B")),
    "transpose": ("out = Transpose<perm = [1, 2, 0]>(x)", ("S", 6, "B")),
    "transpose-by-default": ("out = Transpose(x)", (6, "S", "B")),
    "transpose-of-unknown": ("out = Transpose<perm = [1, 0]>(z)", ("?", "?")),
    "transpose-of-unknown-by-default": ("out = Transpose(z)", None),
    "transpose-malformed": ("out = Transpose<perm = [1, 1, 0]>(x)", ("?", "?", "?")),
    "unsqueeze": ("out = Unsqueeze(x, one_and_last)", ("B", 1, "S", 6, 1)),
    "unsqueeze-twice-alike": ("out = Unsqueeze(x, same_twice)", None),
    "unsqueeze-unknown": ("out = Unsqueeze(z, one_and_last)", None),
    "unsqueeze-by-unknown": ("out = Unsqueeze(x, n)", None),
    "squeeze": ("out = Squeeze(one_row, last)", (1, "S")),
    "squeeze-unknown": ("out = Squeeze(z, last)", None),
    "squeeze-by-unknown": ("out = Squeeze(one_row, n)", None),
    "squeeze-a-scalar": ("out = Squeeze(scalar, last)", ()),
    "flatten": ("out = Flatten<axis = 2>(c)", (10, 6)),
    "flatten-from-the-end": ("out = Flatten<axis = -1>(c)", (10, 6)),
    "flatten-at-zero": ("out = Flatten<axis = 0>(c)", (1, 60)),
    "flatten-by-default": ("out = Flatten(c)", (2, 30)),
    "flatten-a-name": ("out = Flatten<axis = 1>(one_row)", (1, "S")),
    "flatten-names": ("out = Flatten<axis = 2>(x)", ("?", 6)),
    "flatten-name-and-number": ("out = Flatten<axis = 1>(x)", ("B", "?")),
    "flatten-unknown": ("out = Flatten(z)", ("?", "?")),
    "expand": ("s = Shape(x) out = Expand(one_row, s)", ("B", "S", 6)),
    "expand-to-more-axes": ("s = Shape(y) out = Expand(one_row, s)", ("B", 4, "S", 6)),
    "expand-by-unknown": ("t = Concat<axis = 0>(n, n) out = Expand(one_row, t)", None),
    "expand-by-unknown-of-known-length": ("t = Neg(s4) out = Expand(x, t)", ("?", "B", "S", 6)),
    "expand-ones-by-unknown": ("t = Neg(s4) out = Expand(one_row, t)", ("?", "?", "S", "?")),
    "expand-unknown-by-unknown": ("t = Neg(s4) out = Expand(z, t)", None),
    "concat": ("out = Concat<axis = 2>(c, c)", (2, 5, 12)),
    "concat-from-the-end": ("out = Concat<axis = -2>(c, c)", (2, 10, 6)),
    "concat-names": ("out = Concat<axis = 1>(x, x)", ("B", "?", 6)),
    "concat-with-unknown": ("out = Concat<axis = 2>(x, z)", ("B", "S", "?")),
    "concat-unknown-first": ("out = Concat<axis = 2>(z, x)", ("B", "S", "?")),
    "concat-of-unlike-rank": ("out = Concat<axis = 1>(c, five)", (2, "?", 6)),
    "concat-of-unknown": ("out = Concat<axis = 0>(z, z)", None),
    "concat-past-the-end": ("out = Concat<axis = 3>(c, c)", None),
    "concat-past-the-front": ("out = Concat<axis = -4>(c, c)", None),
    "concat-at-the-front": ("out = Concat<axis = -3>(c, c)", (4, 5, 6)),
    "split-evenly": ("out, b = Split<axis = 2>(c)", (2, 5, 3)),
    "split-from-the-end": ("out, b = Split<axis = -1>(c)", (2, 5, 3)),
    "split-at-the-front": ("out, b = Split<axis = -3>(c)", (1, 5, 6)),
    "split-by-default": ("out, b = Split(c)", (1, 5, 6)),
    "split-unevenly": ("out, b = Split<axis = 1>(c)", (2, "?", 6)),
    "split-a-name": ("out, b = Split<axis = 1>(x)", ("B", "?", 6)),
    "split-as-told": ("out, b = Split<axis = 1>(c, two_three)", (2, 2, 6)),
    "split-second-part": ("a, out = Split<axis = 1>(c, two_three)", (2, 3, 6)),
    "split-as-told-wrongly": ("out, b, d = Split<axis = 1>(c, two_three)", (2, "?", 6)),
    "split-past-the-end": ("out, b = Split<axis = 3>(c)", None),
    "split-past-the-front": ("out, b = Split<axis = -4>(c)", None),
    "split-unknown": ("out, b = Split(z)", None),
    "slice": ("out = Slice(x, zero, last, last)", ("B", "S", "?")),
    "slice-without-axes": ("out = Slice(x, two_three, two_three)", ("?", "?", 6)),
    "slice-by-unknown-axes": ("out = Slice(x, n, n, n)", ("?", "?", "?")),
    "slice-unknown": ("out = Slice(z, zero, last, last)", None),
    "slice-more-than-there-is": ("out = Slice(w6, two_three, two_three)", ("?",)),
    "slice-of-unknown-count": ("out = Slice(x, n, n)", ("B", "S", 6)),
    "gather": ("out = Gather<axis = 1>(x, m)", ("B", "M", 6, 6)),
    "gather-by-default": ("out = Gather(x, scalar)", ("S", 6)),
    "gather-from-the-end": ("out = Gather<axis = -1>(x, scalar)", ("B", "S")),
    "gather-at-the-front": ("out = Gather<axis = -3>(x, scalar)", ("S", 6)),
    "gather-past-the-front": ("out = Gather<axis = -4>(x, scalar)", None),
    "gather-past-the-end": ("out = Gather<axis = 3>(x, scalar)", None),
    "gather-of-unknown": ("out = Gather(z, scalar)", None),
    "gather-by-unknown": ("out = Gather(x, z)", None),
    "gather-elements": ("out = GatherElements(x, w)", (6, 8)),
    "reduce": ("out = ReduceSum(x, last)", ("B", "S", 1)),
    "reduce-and-drop": ("out = ReduceSum<keepdims = 0>(x, last)", ("B", "S")),
    "reduce-all": ("out = ReduceMax(x)", (1, 1, 1)),
    "reduce-all-and-drop": ("out = ReduceMax<keepdims = 0>(x)", ()),
    "reduce-by-attribute": ("out = ReduceMax<axes = [1], keepdims = 0>(x)", ("B", 6)),
    "reduce-by-unknown": ("out = ReduceSum(x, n)", None),
    "reduce-unknown": ("out = ReduceSum(z, last)", None),
    "reduce-a-scalar": ("out = ReduceSum(scalar, last)", ()),
    "quantized-weights": ("out = com.microsoft.MatMulNBits<N = 9>(x, w, w6)", ("B", "S", 9)),
    "quantized-weights-without-width": ("out = com.microsoft.MatMulNBits(x, w, w6)", None),
    "quantized-weights-unknown": ("out = com.microsoft.MatMulNBits<N = 9>(z, w, w6)", None),
    "constant-of-shape": ("s = Shape(x) out = ConstantOfShape(s)", ("B", "S", 6)),
    "constant-of-unknown-shape": ("out = ConstantOfShape(n)", None),
    "dropout-mask": ("d, out = Dropout(x)", ("B", "S", 6)),
    "other-operator": ("out = NonZero(x)", None),
    "other-domain": ("out = local.Attention(x, w, w6)", None),
}  # fmt: skip

RESHAPES = {
    "given": ("out = Reshape(c, ten_six)", (10, 6)),
    "copied": ("out = Reshape(x, copy_copy_two_three)", ("B", "S", 2, 3)),
    "zero-kept": ("out = Reshape<allowzero = 1>(x, copy_copy_two_three)", (0, 0, 2, 3)),
    "copied-past-the-end": ("out = Reshape(w6, copy_copy_two_three)", (6, "?", 2, 3)),
    "copied-of-unknown": ("out = Reshape(z, copy_copy_two_three)", ("?", "?", 2, 3)),
    "rest-of-numbers": ("out = Reshape(c, rest_four)", (15, 4)),
    "rest-last": ("out = Reshape(c, four_rest)", (4, 15)),
    "rest-not-whole": ("out = Reshape(c, rest_seven)", ("?", 7)),
    "rest-is-a-name": ("h = Shape<start = 1>(x) t = Concat<axis = 0>(minus, h) out = Reshape(x, t)", ("B", "S", 6)),
    "rest-is-a-name-times-number": ("out = Reshape(x, copy_rest_three)", ("B", "?", 3)),
    "rest-of-a-name": ("out = Reshape(m, rest_six)", ("M", 6)),
    "rest-of-two-names": ("out = Reshape(x, rest_six)", ("?", 6)),
    "rest-is-a-number": ("b = Shape<end = 2>(x) t = Concat<axis = 0>(b, minus) out = Reshape(x, t)", ("B", "S", 6)),
    "rest-is-more": ("b = Shape<end = 2>(x) t = Concat<axis = 0>(b, minus, two) out = Reshape(x, t)", ("B", "S", 3, 2)),
    "rest-without-a-name-of-it": ("t = Concat<axis = 0>(r1, minus) out = Reshape(x, t)", ("R", "?")),
    "rest-twice": ("t = Concat<axis = 0>(minus, minus) out = Reshape(c, t)", ("?", -1)),
    "rest-of-unknown": ("out = Reshape(z, rest_six)", ("?", 6)),
    "rest-by-zero": ("out = Reshape<allowzero = 1>(c, copy_rest)", (0, "?")),
    "unknown-of-known-length": ("t = Neg(s4) out = Reshape(c, t)", ("?", "?", "?", "?")),
    "unknown": ("t = Neg(n) out = Reshape(c, t)", None),
    "unknown-of-no-length": ("t = Neg(none) out = Reshape(c, t)", ()),
    "unknown-of-64-axes": ("t = Neg(sixty_four) out = Reshape(c, t)", ("?",) * 64),
    "malformed": ("t = Neg(sixty_five) out = Reshape(c, t)", None),
    "without-shape": ("out = Reshape(c)", None),
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    "w6": weight(6), "w8": weight(1, 1, 7, 6), "c": weight(2, 5, 6), "five": weight(5, 1), "scalar": ints(0)[0],
    "zero": ints(0), "two": ints(2), "last": ints(-1), "minus": ints(-1), "none": ints(), "one_and_last": ints(1, -1),
    "same_twice": ints(1, -4), "two_three": ints(2, 3), "ten_six": ints(10, 6), "copy_copy_two_three": ints(0, 0, 2, 3),
    "rest_four": ints(-1, 4), "four_rest": ints(4, -1), "rest_seven": ints(-1, 7), "copy_rest_three": ints(0, -1, 3),
    "rest_six": ints(-1, 6), "copy_rest": ints(0, -1), "s4": ints(1, 1, 1, 1), "sixty_four": ints(*[1] * 64),
    "sixty_five": ints(*[1] * 65),
}  # fmt: skip


def shape_of(body: str, opset: int = 17) -> Any:
    """The shape of `out`, with "?" for names that were made up; each of these is another one."""
    shape = read(f"r1 = Shape(n4) {body}", f"{X}, float[R] n4", opset=opset, **CONSTANTS).shape("out")
    made_up = [dim for dim in shape or () if isinstance(dim, str) and dim.startswith("?")]
    assert len(set(made_up)) == len(made_up)
    return shape and tuple("?" if dim in made_up else dim for dim in shape)


@pytest.mark.parametrize(("body", "shape"), RULES.values(), ids=RULES)
def test_rule(body: str, shape: tuple[int | str, ...] | None) -> None:
    assert shape_of(body) == shape


@pytest.mark.parametrize(("body", "shape"), RESHAPES.values(), ids=RESHAPES)
def test_reshape(body: str, shape: tuple[int | str, ...] | None) -> None:
    assert shape_of(body) == shape


OLD = {
    "reshape": ("out = Reshape<shape = [-1, 6]>(c)", (10, 6)),
    "unsqueeze": ("out = Unsqueeze<axes = [0]>(m)", (1, "M", 6)),
    "squeeze": ("out = Squeeze<axes = [0]>(one_row)", ("S", 1)),
    "split": ("out, b = Split<axis = 1, split = [2, 3]>(c)", (2, 2, 6)),
    "slice": ("out = Slice<axes = [1], starts = [0], ends = [2]>(x)", ("B", "?", 6)),
    "slice-without-axes": ("out = Slice<starts = [0], ends = [2]>(x)", ("?", "S", 6)),
}


@pytest.mark.parametrize(("body", "shape"), OLD.values(), ids=OLD)
def test_rule_of_old_opsets_reads_attributes(body: str, shape: tuple[int | str, ...]) -> None:
    assert shape_of(body, opset=4) == shape
