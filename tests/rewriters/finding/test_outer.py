"""Scores of every query against every key that are no matrix product."""

from __future__ import annotations

import pytest

from rewriters.finding.outer import outer_product, outer_sum

from ..patterns import ints, weight
from .graph_text import read

X = (
    "float[B,S,6] x, float[B,1,S,6] rows, float[B,S,1,6] columns, float[B,S,1] query, float[B,1,S] key,"
    " float[1,1,6] point, z"
)
CONSTANTS = {
    "w": weight(6, 1), "w6": weight(6, 6), "line": weight(1, 5), "column": weight(5, 1), "last": ints(-1),
    "last_two": ints(-2, -1), "half": weight(1), "one": ints(1), "two": ints(2),
}  # fmt: skip
PARTS = "a = MatMul(x, w) p = MatMul(x, w) b = Transpose<perm = [0, 2, 1]>(p)"
SUMS = {
    "keys-last": (f"{PARTS} out = Add(a, b)", -1, True),
    "keys-last-but-one": (f"{PARTS} out = Add(a, b)", -2, True),
    "another-axis": (f"{PARTS} out = Add(a, b)", -3, False),
    "parts-exchanged": (f"{PARTS} out = Add(b, a)", -1, True),
    "difference": (f"{PARTS} out = Sub(a, b)", -1, False),
    "not-crossed": (f"{PARTS} out = Add(a, a)", -1, False),
    "one-of-unknown-shape": (f"{PARTS} c = Unknown(b) out = Add(a, c)", -1, False),
    "other-of-unknown-shape": (f"{PARTS} c = Unknown(a) out = Add(c, b)", -1, False),
    "with-constant": ("a = MatMul(x, w) out = Add(a, line)", -1, False),
    "constant-first": ("a = MatMul(x, w) out = Add(line, a)", -1, False),
    "no-projection-of-keys": ("a = MatMul(x, w) out = Add(a, key)", -1, False),
    "no-projection-of-queries": (f"{PARTS} out = Add(query, b)", -1, False),
    "nothing-projected": ("out = Add(query, key)", -1, False),
    "behind-arithmetic": (f"{PARTS} t = Tanh(b) u = Mul(half, t) out = Add(a, u)", -1, True),
    "behind-a-comparison": (f"{PARTS} t = Softmax(b) out = Add(a, t)", -1, False),
    "summed-over-features": ("p = ReduceSum(x, last) b = Transpose<perm = [0, 2, 1]>(p) out = Add(p, b)", -1, True),
    "convolved": ("c = Conv(x, w6) q = Reshape(c, c) a = Add(query, q) "
                  "b = Transpose<perm = [0, 2, 1]>(query) k = Conv(b, w6) out = Add(query, k)", -1, False),
    "along-both": (f"{PARTS} s = Sub(b, key) t = Sub(a, query) out = Add(t, s)", -1, True),
    "with-a-row-for-all": ("a = MatMul(x, w6) b = MatMul(point, w6) out = Add(a, b)", -1, False),
    "with-an-axis-of-one": (f"{PARTS} c = Unsqueeze(a, last) d = Unsqueeze(b, last) out = Add(c, d)", -2, True),
    "squeezed": ("a = MatMul(x, w) g = MatMul(rows, w) h = Squeeze(g, last) out = Add(a, h)", -1, True),
    "of-unlike-rank": ("a = MatMul(x, w) g = ReduceSum<axes = [0, 3], keepdims = 0>(rows) out = Add(a, g)", -1, True),
}  # fmt: skip


@pytest.mark.parametrize(("body", "axis", "found"), SUMS.values(), ids=SUMS)
def test_outer_sum(body: str, axis: int, found: bool) -> None:
    reading = read(body, X, **CONSTANTS)
    node = reading.node("out")
    operands = outer_sum(reading.view, reading.facts, node, axis)
    assert (operands is not None) is found
    if operands is not None:
        assert (operands.first, operands.second) == tuple(node.inputs)


PRODUCTS = {
    "product": ("m = Mul(columns, rows) out = ReduceSum<keepdims = 0>(m, last)", ("columns", "rows")),
    "product-exchanged": ("m = Mul(rows, columns) out = ReduceSum<keepdims = 0>(m, last)", ("rows", "columns")),
    "difference": ("m = Sub(columns, rows) out = ReduceL2<axes = [-1]>(m)", ("columns", "rows")),
    "squared-difference": (
        "m = Sub(columns, rows) p = Mul(m, m) out = ReduceSum(p, last)", ("columns", "rows"),
    ),
    "raised-difference": ("m = Sub(columns, rows) p = Pow(m, half) out = ReduceSum(p, last)", ("columns", "rows")),
    "scaled": ("m = Mul(columns, rows) s = Mul(m, half) out = ReduceSum(s, last)", ("columns", "rows")),
    "scaled-by-number-first": ("m = Mul(columns, rows) s = Mul(half, m) out = ReduceSum(s, last)", None),
    "sum-of-both": ("m = Add(columns, rows) out = ReduceSum(m, last)", None),
    "of-two-axes": ("m = Mul(columns, rows) out = ReduceSum(m, last_two)", None),
    "of-all-axes": ("m = Mul(columns, rows) out = ReduceSum(m)", None),
    "maximum": ("m = Mul(columns, rows) out = ReduceMax<axes = [-1]>(m)", None),
    "element-wise": ("m = Mul(columns, columns) out = ReduceSum(m, last)", None),
    "of-other-things": ("m = Softmax(rows) out = ReduceSum(m, last)", None),
    "behind-other-things": ("m = Mul(columns, rows) s = Softmax(m) out = ReduceSum(s, last)", None),
    "of-an-input": ("out = ReduceSum(x, last)", None),
    "of-a-cast-input": ("m = Cast<to = 1>(x) out = ReduceSum(m, last)", None),
    "with-constant": ("m = Mul(columns, line) out = ReduceSum(m, last)", None),
}  # fmt: skip


@pytest.mark.parametrize(("body", "factors"), PRODUCTS.values(), ids=PRODUCTS)
def test_outer_product(body: str, factors: tuple[str, str] | None) -> None:
    reading = read(body, X, **CONSTANTS)
    operands = outer_product(reading.view, reading.facts, reading.node("out"))
    found = None if operands is None else (operands.first, operands.second)
    assert found == (factors and tuple(reading[name] for name in factors))


def test_projection_in_a_branch_is_found() -> None:
    """The value that an If gives is looked at in its branches."""
    branch = "{0}_branch = {0}g () => (float[B,S,1] {0}a) {{ {0}a = MatMul(x, w) }}"
    chosen = f"a = If<{branch.format('then')}, {branch.format('else')}>(c)"
    body = f"{chosen} b = Transpose<perm = [0, 2, 1]>(a) out = Add(a, b)"
    reading = read(body, f"{X}, bool c", **CONSTANTS)
    assert outer_sum(reading.view, reading.facts, reading.node("out"), -1) is not None
