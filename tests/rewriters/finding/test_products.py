"""Which operators contract an axis of a map with computed values, and how their operands lie in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rewriters.finding.products import Product, Refused, match_product, product_operands, stored_axis

from ..patterns import weight
from .graph_text import read
from .reading import Reading

X = (
    "float[B,3,S,T] p, float[B,3,T,4] v, float[B,3,4,T] vt, float[B,3,T,S] pt, float[B,T,4] shared, float[T,4] m,"
    " float[3,S,B,T] batch_last, float[3,T,B,4] values_last, float[S,T] flat, float[T] line, float[N,B,3,T,4] deep, z"
)
T4 = (0, 1, 3, 2)


def matched(body: str, index: int = 0, axis: int = -1) -> tuple[Reading, Product | Refused | None]:
    reading = read(body, X, w=weight(7, 4))
    return reading, match_product(reading.view, reading.facts, reading.node("out"), index, axis)


PRODUCTS = {
    "matmul": ("out = MatMul(p, v)", 0, -1, {"values": "v", "query_axis": -2, "operand": 0}),
    "matmul-turned": (
        "out = MatMul(vt, pt)", 1, -2,
        {
            "values": "vt", "query_axis": -1, "key_axis": -2, "operand": 1, "probabilities_perm": T4,
            "values_perm": T4, "output_perm": T4,
        },
    ),
    "shared-values": ("out = MatMul(p, shared)", 0, -1, {"values": "shared", "values_lack": (-4,)}),
    "matrix-of-values": ("out = MatMul(p, m)", 0, -1, {"values": "m", "values_lack": (-4, -3)}),
    "gemm": ("out = Gemm(flat, m)", 0, -1, {"values": "m", "rank": 2}),
    "gemm-of-unknown-rank": ("out = Gemm(z, m)", 0, -1, {"values": "m", "rank": 2}),
    "gemm-transposed": (
        "out = Gemm<transA = 1>(flat, m)", 0, -2,
        {"values": "m", "rank": 2, "query_axis": -1, "key_axis": -2, "probabilities_perm": (1, 0)},
    ),
    "rank-of-the-values": ("out = MatMul(z, v)", 0, -1, {"values": "v", "rank": 4}),
    "fused": ("out = com.microsoft.FusedMatMul(p, v)", 0, -1, {"values": "v"}),
    "fused-transposed": (
        "out = com.microsoft.FusedMatMul<transB = 1>(p, vt)", 0, -1, {"values": "vt", "values_perm": T4},
    ),
    "fused-scaled": ("out = com.microsoft.FusedMatMul<alpha = 0.5>(p, v)", 0, -1, {"values": "v", "scaled": True}),
    "fused-batch-last": (
        "out = com.microsoft.FusedMatMul<transBatchA = 1, transBatchB = 1>(batch_last, values_last)", 0, -1,
        {"values": "values_last", "query_axis": -4, "probabilities_perm": (1, 2, 0, 3), "values_perm": (1, 2, 0, 3)},
    ),
    "einsum": ('out = Einsum<equation = "bhqk,bhkd->bhqd">(p, v)', 0, -1, {"values": "v"}),
    "einsum-turned": ('out = Einsum<equation = "bhdk,bhkq->bhqd">(vt, pt)', 1, -2, {
        "values": "vt", "query_axis": -1, "key_axis": -2, "operand": 1, "probabilities_perm": T4, "values_perm": T4,
    }),
    "einsum-shared": (
        'out = Einsum<equation = "bhqk,bkd->bhqd">(p, shared)', 0, -1,
        {"values": "shared", "values_perm": (0, 1, 2), "values_lack": (-3,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "index", "axis", "fields"), PRODUCTS.values(), ids=PRODUCTS)
def test_product(body: str, index: int, axis: int, fields: dict[str, object]) -> None:
    reading, product = matched(body, index, axis)
    assert isinstance(product, Product)
    plain = {
        "operand": 0, "rank": 4, "query_axis": -2, "key_axis": -1, "probabilities_perm": None, "values_perm": None,
        "output_perm": None, "values_lack": (), "kept": None, "scaled": False,
    }  # fmt: skip
    got = {name: getattr(product, name) for name in plain} | {"values": product.values.name}
    assert got == plain | fields and product.node is reading.node("out")


REFUSED = {
    "another-axis": ("out = MatMul(p, v)", 0, -2, "axis"),
    "another-axis-of-an-einsum": ('out = Einsum<equation = "bhqk,bhkd->bhqd">(p, v)', 0, -2, "axis"),
    "axis-that-is-not-there": ("out = MatMul(flat, m)", 0, -3, "axis"),
    "vector": ("out = MatMul(line, m)", 0, -1, "axis"),
    "constant": ("out = MatMul(p, w)", 0, -1, "constant-values"),
    "itself": ("out = MatMul(p, p)", 0, -1, "own-values"),
    "three-operands": ('out = Einsum<equation = "bhqk,bhkd,bhkd->bhqd">(p, v, v)', 0, -1, "product-form"),
    "quantized-weights": ("out = com.microsoft.MatMulNBits(p, v)", 0, -1, "quantized-product"),
    "unknown-ranks": ("y = Unknown(v) out = MatMul(z, y)", 0, -1, "rank"),
    "unknown-rank-of-an-einsum": ('out = Einsum<equation = "bhqk,bhkd->bhqd">(z, v)', 0, -1, "rank"),
    "more-axes-of-values": ("out = MatMul(p, deep)", 0, -1, "product-form"),
    "vector-of-values": ("out = MatMul(p, line)", 0, -1, "product-form"),
    "scaled-by-zero": ("out = com.microsoft.FusedMatMul<alpha = 0.0>(p, v)", 0, -1, "product-form"),
    "bias": ("out = Gemm(flat, m, m)", 0, -1, "product-form"),
    "other-operator-of-the-kind": ("out = com.microsoft.FusedGemm(flat, m)", 0, -1, "product-form"),
    "einsum-of-the-diagonal": ('out = Einsum<equation = "bhqq,bhqd->bhqd">(p, v)', 0, -1, "product-form"),
    "integers": ("out = MatMulInteger(p, v)", 0, -1, "quantized-product"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "index", "axis", "code"), REFUSED.values(), ids=REFUSED)
def test_refused(body: str, index: int, axis: int, code: str) -> None:
    _, product = matched(body, index, axis)
    assert isinstance(product, Refused) and product.code == code


@pytest.mark.parametrize(
    "body", ["out = Add(p, p)", "out = Gemm(m, m, flat)", "out = Mul(p, p)"], ids=["sum", "bias", "scaled"]
)
def test_no_product(body: str) -> None:
    assert matched(body, 2 if "Gemm" in body else 0)[1] is None


def test_operands_of_products() -> None:
    reading = read(
        'a = MatMul(p, v) b = QLinearMatMul(p, m, m, v) c = Einsum<equation = "ab->ba">(flat) out = Neg(p)', X
    )
    for name in ("a", "b"):
        found = product_operands(reading.node(name))
        assert found is not None and (found.first, found.second) == (reading["p"], reading["v"])
    assert product_operands(reading.node("c")) is None and product_operands(reading.node("out")) is None


def test_rows_and_columns_of_stored_factors() -> None:
    plain, turned = (
        read(f"out = com.microsoft.FusedMatMul{trans}(p, v)", X).node("out") for trans in ("", "<transB = 1>")
    )
    assert [stored_axis(plain, side, axis) for side in (0, 1) for axis in (-1, -2)] == [-1, -2, -1, -2]
    assert [stored_axis(turned, side, axis) for side in (0, 1) for axis in (-1, -2)] == [-1, -2, -2, -1]


def test_canonical_axes_in_another_order() -> None:
    _, product = matched("out = MatMul(p, v)")
    assert isinstance(product, Product)
    other = product.reordered((1, 0, 2, 3))
    assert other == replace(
        product, probabilities_perm=(1, 0, 2, 3), values_perm=(1, 0, 2, 3), output_perm=(1, 0, 2, 3)
    )
    assert other.reordered((1, 0, 2, 3)).values_perm == (0, 1, 2, 3)
    assert product.widths == other.widths == 1
    assert replace(product, values_perm=(0, 1, 2, 3, 4)).widths == 2
    assert replace(product, values_perm=(0, 1, 2, 3), values_lack=(-3,)).widths == 2
