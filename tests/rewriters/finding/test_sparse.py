"""Which maps with zeros of their own let every row see every column."""

from __future__ import annotations

import pytest

from rewriters.finding.sparse import is_unmasked

from ..patterns import ints, scalar, weight
from .graph_text import read

X = (
    "float[B,3,S,4] q, float[B,3,4,T] k, float[B,3,T,4] v, float[1,1,1,1] number, float[B,1,S,1] row,"
    " float[B,1,S,T] mask"
)
THRESHOLD = "top, at = TopK<axis = -1>(s, two) c = ReduceSum(top, last) d = Sub(s, c)"
GRAPHS = {
    "relu": ("p = Relu(s) out = MatMul(p, v)", True),
    "softmax": ("p = Softmax<axis = -1>(s) out = MatMul(p, v)", False),
    "sigmoid": ("p = Sigmoid(s) out = MatMul(p, v)", False),
    "sparsemax": (f"{THRESHOLD} p = Relu(d) out = MatMul(p, v)", True),
    "sparsemax-of-scaled": (f"m = Mul(s, half) {THRESHOLD.replace('s,', 'm,')} p = Relu(d) out = MatMul(p, v)", True),
    "sparsemax-of-masked": (f"m = Add(s, mask) {THRESHOLD.replace('s,', 'm,')} p = Relu(d) out = MatMul(p, v)", False),
    "sparsemax-with-a-mask-behind": (f"{THRESHOLD} p = Relu(d) m = Mul(p, mask) out = MatMul(m, v)", False),
    "scaled-by-a-constant": ("m = Mul(s, half) p = Relu(m) out = MatMul(p, v)", True),
    "shifted-by-a-constant": ("m = Sub(s, half) p = Relu(m) out = MatMul(p, v)", True),
    "scaled-by-a-number": ("m = Div(s, number) p = Relu(m) out = MatMul(p, v)", True),
    "scaled-by-row": ("m = Mul(s, row) p = Relu(m) out = MatMul(p, v)", False),
    "masked-by-sum": ("m = Add(s, mask) p = Relu(m) out = MatMul(p, v)", False),
    "masked-by-choice": ("c = Greater(mask, half) m = Where(c, s, half) p = Relu(m) out = MatMul(p, v)", False),
    "raised": ("m = Pow(s, half) p = Relu(m) out = MatMul(p, v)", True),
    "activated": ("m = Tanh(s) p = Relu(m) out = MatMul(p, v)", True),
    "behind-scaled": ("p = Relu(s) m = Mul(p, half) out = MatMul(m, v)", True),
    "behind-scaled-by-row": ("p = Relu(s) m = Div(p, row) out = MatMul(m, v)", True),
    "behind-scaled-by-constants-of-rows": ("p = Relu(s) m = Mul(p, rows) out = MatMul(m, v)", False),
    "behind-masked": ("p = Relu(s) m = Mul(p, mask) out = MatMul(m, v)", False),
    "behind-shifted": ("p = Relu(s) m = Add(p, half) out = MatMul(m, v)", False),
    "behind-by-unknown": ("p = Relu(s) m = Mul(p, z) out = MatMul(m, v)", False),
    "behind-raised": ("p = Relu(s) m = Pow(p, half) out = MatMul(m, v)", True),
    "squared": ("p = Relu(s) m = Mul(p, p) out = MatMul(m, v)", True),
    "moved-and-scaled-by-row": ("p = Relu(s) m = Reshape(p, s4) n = Mul(m, row) out = MatMul(n, v)", False),
    "moved-and-scaled-by-number": ("p = Relu(s) m = Reshape(p, s4) n = Mul(m, number) out = MatMul(n, v)", True),
}  # fmt: skip


@pytest.mark.parametrize(("body", "unmasked"), GRAPHS.values(), ids=GRAPHS)
def test_every_row_sees_every_column(body: str, unmasked: bool) -> None:
    constants = {"half": scalar(0.5), "two": ints(2), "last": ints(-1), "rows": weight(5, 1), "s4": ints(0, 0, 0, 0)}
    reading = read(f"s = MatMul(q, k) {body}", f"{X}, z", **constants)
    anchor, hit, scores = reading.walks()
    assert is_unmasked(reading.view, reading.facts, anchor, hit, scores) is unmasked


def test_numbers_of_rows_are_numbers_of_columns_of_a_map_the_other_way_round() -> None:
    reading = read(
        "s = MatMul(k, q) p = Relu(s) m = Mul(p, row) out = com.microsoft.FusedMatMul<transA = 1>(m, k)",
        "float[B,S,4] k, float[B,4,T] q, float[B,S,1] row",
    )
    anchor, hit, scores = reading.walks(axis=-2)
    assert not is_unmasked(reading.view, reading.facts, anchor, hit, scores)
