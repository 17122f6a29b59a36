"""Products on integers: their float factors, and where their result is a float again."""

from __future__ import annotations

from typing import Any

import pytest

from rewriters.finding.kept import KeptProduct
from rewriters.finding.quantized import read_integer_product

from ..patterns import scalar, weight
from .graph_text import read

X = (
    "float[B,S,T] p, float[B,T,4] v, uint8[B,S,T] pq, uint8[B,T,4] vq, float16[B,S,T] ph, float16[B,T,4] vh,"
    " float16 half, float[4] each, float[1] one_scale, float ps, float vs, uint8 z, bool c"
)
CONSTANTS = {"s": scalar(0.1), "t": scalar(0.2), "u": scalar(0.3), "w": weight(4, 4), "bias": weight(4)}
PAIR = "a = QuantizeLinear(p, s, z) b = QuantizeLinear(v, t, z)"
DYNAMIC = "a, ps1, pz1 = DynamicQuantizeLinear(p) b, vs1, vz1 = DynamicQuantizeLinear(v)"
INTEGER = f"{DYNAMIC} m = MatMulInteger(a, b, pz1, vz1)"
FLOAT_OF = f"{INTEGER} f = Cast<to = 1>(m)"


def read_product(body: str, name: str = "m", side: int = 0, outputs: str = "out") -> Any:
    reading = read(body, X, outputs, **CONSTANTS)
    return read_integer_product(reading.view, reading.facts, reading.node(name), side)


READ: dict[str, tuple[str, tuple[str, ...]]] = {
    "qlinear": (
        "m = QLinearMatMul(pq, s, z, vq, t, z, u, z) out = Identity(m)",
        ("qlinear", "pq s z", "vq t z", "m"),
    ),
    "qlinear-of-quantized": (
        f"{PAIR} m = QLinearMatMul(a, s, z, b, t, z, u, z) out = Identity(m)",
        ("qlinear", "p", "v", "m"),
    ),
    "qlinear-scale-of-one-entry": (
        "m = QLinearMatMul(pq, one_scale, z, vq, t, z, u, z) out = Identity(m)",
        ("qlinear", "pq one_scale z", "vq t z", "m"),
    ),
    "to-float": (
        "m = com.microsoft.MatMulIntegerToFloat(pq, vq, s, t, z, z) out = Identity(m)",
        ("integer", "pq s z", "vq t z", "m"),
    ),
    "to-float-without-zeros": (
        "m = com.microsoft.MatMulIntegerToFloat(pq, vq, s, t) out = Identity(m)",
        ("integer", "pq s", "vq t", "m"),
    ),
    "to-float-of-quantized": (
        f"{DYNAMIC} m = com.microsoft.MatMulIntegerToFloat(a, b, ps1, vs1, pz1, vz1) out = Identity(m)",
        ("integer", "p", "v", "m"),
    ),
    "dynamic": (
        "m = com.microsoft.DynamicQuantizeMatMul(p, vq, t, z) out = Identity(m)",
        ("integer", "p", "vq t z", "m"),
    ),
    "integer": (f"{FLOAT_OF} e = Mul(ps1, vs1) out = Mul(f, e)", ("integer", "p", "v", "out")),
    "integer-scales-exchanged": (f"{FLOAT_OF} e = Mul(vs1, ps1) out = Mul(e, f)", ("integer", "p", "v", "out")),
    "integer-one-scale-at-a-time": (f"{FLOAT_OF} e = Mul(f, ps1) out = Mul(e, vs1)", ("integer", "p", "v", "out")),
    "integer-of-moved": (
        f"{DYNAMIC} at = Transpose<perm = [0, 1, 2]>(a) m = MatMulInteger(at, b, pz1, vz1) f = Cast<to = 1>(m)"
        " e = Mul(ps1, vs1) out = Mul(f, e)",
        ("integer", "at ps1 pz1", "v", "out"),
    ),
    "integer-of-a-computed-scale": (
        "c1 = Mul(ps, vs) a = QuantizeLinear(p, c1, z) b = QuantizeLinear(v, t, z) m = MatMulInteger(a, b)"
        " f = Cast<to = 1>(m) e = Mul(c1, t) out = Mul(f, e)",
        ("integer", "p", "v", "out"),
    ),
    "integer-of-plain-pairs": (
        f"{PAIR} m = MatMulInteger(a, b) f = Cast<to = 1>(m) e = Mul(s, t) out = Mul(f, e)",
        ("integer", "p", "v", "out"),
    ),
}  # fmt: skip
"""Body → form, then value, scale and zero point of the map (first factor) and of the values, then the output."""


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("body", "expected"), READ.values(), ids=READ)
def test_factors_and_output(body: str, expected: tuple[str, ...], side: int) -> None:
    found = read_product(body, side=side)
    assert isinstance(found, KeptProduct)
    form, *factors, output = expected
    assert (found.form, found.output.name) == (form, output)
    told = [
        " ".join(str(part.name) for part in (factor.value, factor.scale, factor.zero_point) if part is not None)
        for factor in (found.probabilities, found.values)
    ]
    assert told == (factors if side == 0 else factors[::-1])


SCALE = "of a factor whose scale is not a float number"
REFUSED = {
    "bias": ("m = com.microsoft.MatMulIntegerToFloat(pq, vq, s, t, z, z, bias)", "MatMulIntegerToFloat with a bias"),
    "dynamic-bias": ("m = com.microsoft.DynamicQuantizeMatMul(p, vq, t, z, bias)", "DynamicQuantizeMatMul with a bias"),
    "qlinear-cut-short": ("m = QLinearMatMul(pq, s, z, vq, t, z, u)", "QLinearMatMul without all its scales"),
    "no-values": ('m = MatMulInteger(pq, "")', f"MatMulInteger {SCALE}"),
    "scale-of-each-column": ("m = QLinearMatMul(pq, s, z, vq, each, z, u, z)", f"QLinearMatMul {SCALE}"),
    "scale-missing": ('m = QLinearMatMul(pq, "", z, vq, t, z, u, z)', f"QLinearMatMul {SCALE}"),
    "scale-in-half-precision": ("m = QLinearMatMul(pq, half, z, vq, t, z, u, z)", f"QLinearMatMul {SCALE}"),
    "integer-zero-without-scale": ("m = MatMulInteger(pq, vq, z, z)", f"MatMulInteger {SCALE}"),
    "result-in-half-precision": (
        "m = com.microsoft.MatMulIntegerToFloat(pq, vq, s, t)",
        "MatMulIntegerToFloat with a result other than float32",
    ),
    "scale-of-an-input": ("m = MatMulInteger(pq, vq)", f"MatMulInteger {SCALE}"),
    "second-scale-unknown": (f"{DYNAMIC} m = MatMulInteger(a, vq)", f"MatMulInteger {SCALE}"),
    "behind-another-operator": (f"{DYNAMIC} g = Relu(a) m = MatMulInteger(g, b)", f"MatMulInteger {SCALE}"),
    "of-a-scale": (f"{DYNAMIC} m = MatMulInteger(a, vz1)", f"MatMulInteger {SCALE}"),
}  # fmt: skip
UNSCALED = "MatMulInteger whose sum is not cast to float and multiplied by both scales"


@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_taken_out_of_its_integers(body: str, reason: str) -> None:
    outputs = "float16[B,S,4] m" if "other than" in reason else "m"
    assert read_product(body, outputs=outputs) == reason


SUMS = {
    "not-cast": (f"{INTEGER} out = Neg(m)", "out"),
    "cast-to-half": (f"{INTEGER} f = Cast<to = 10>(m) e = Mul(ps1, vs1) out = Mul(f, e)", "out"),
    "read-twice": (f"{FLOAT_OF} e = Mul(ps1, vs1) out = Mul(f, e) more = Neg(m)", "out, more"),
    "leaves-the-graph": (f"{FLOAT_OF} e = Mul(ps1, vs1) out = Mul(f, e)", "out, m"),
    "cast-read-twice": (f"{FLOAT_OF} e = Mul(ps1, vs1) out = Mul(f, e) more = Neg(f)", "out, more"),
    "by-one-scale-only": (f"{FLOAT_OF} e = Mul(f, ps1) out = Neg(e)", "out"),
    "by-one-scale-twice": (f"{FLOAT_OF} e = Mul(ps1, ps1) out = Mul(f, e)", "out"),
    "by-something-else-too": (f"{FLOAT_OF} e = Mul(ps1, vs1) g = Mul(e, ps) out = Mul(f, g)", "out"),
    "added": (f"{FLOAT_OF} e = Mul(ps1, vs1) out = Add(f, e)", "out"),
    "unread": (INTEGER, "b"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "outputs"), SUMS.values(), ids=SUMS)
def test_a_sum_that_is_not_made_a_float_product(body: str, outputs: str) -> None:
    assert read_product(body, outputs=outputs) == UNSCALED


def test_a_result_that_is_scaled_in_a_branch() -> None:
    branch = "then_branch = tg () => (float[B,S,4] to) { f = Cast<to = 1>(m) e = Mul(ps1, vs1) to = Mul(f, e) }"
    other = "else_branch = eg () => (float[B,S,4] eo) { eo = Neg(v) }"
    body = f"{INTEGER} out = If<{branch}, {other}>(c)"
    assert read_product(body) == "MatMulInteger whose result is scaled in another body"


def test_equal_scales_have_to_be_there_twice() -> None:
    body = "a = QuantizeLinear(p, s, z) b = QuantizeLinear(v, s, z) m = MatMulInteger(a, b) f = Cast<to = 1>(m)"
    found = read_product(f"{body} e = Mul(s, s) out = Mul(f, e)")
    assert isinstance(found, KeptProduct) and found.output.name == "out"
    assert read_product(f"{body} out = Mul(f, s)") == UNSCALED


def test_a_half_precision_source_is_read_as_integers() -> None:
    body = "a = QuantizeLinear(ph, half, z) m = QLinearMatMul(a, s, z, vq, t, z, u, z) out = Identity(m)"
    found = read_product(body)
    assert isinstance(found, KeptProduct)
    assert found.probabilities.value.name == "a"
