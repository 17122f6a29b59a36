"""A plain product P·V: what is read and written around it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from rewriters.emit import ConstantPool, Emitter
from rewriters.finding.finder import find_sites
from rewriters.lowering.operands import ProductOperands

from ..patterns import QK, model
from ..subgraphs.emitted import ran

RNG = np.random.default_rng(2)
P = RNG.dirichlet(np.ones(5), (2, 3, 4)).astype(np.float32)
V = RNG.normal(size=(2, 3, 5, 4)).astype(np.float32)
MASK = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
WITHOUT = P @ (V * ~MASK[:, None, :, None])
PLAIN = f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)"
TURNED = (
    "kt = Transpose<perm = [0, 1, 3, 2]>(k) qt = Transpose<perm = [0, 1, 3, 2]>(q) qk = MatMul(k, qt)"
    " p = Softmax<axis = -2>(qk) v = Transpose<perm = [0, 1, 3, 2]>(u) out = MatMul(v, p)"
)


def operands(kind: str = "float", body: str = PLAIN) -> ProductOperands:
    values = "u" if body == TURNED else "v"
    inputs = f"{kind}[B,3,S,4] q, {kind}[B,3,T,4] k, {kind}[B,3,T,4] {values}"
    made = model(body, inputs, f"{kind}[?] out")
    (site,) = find_sites(made)[0]
    return ProductOperands(site, made.graph.node[-1])


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
@pytest.mark.parametrize(("kind", "dtype"), [("float", np.float32), ("double", np.float64), ("float16", np.float16)])
def test_product_without_columns(kind: str, dtype: type, conditional: bool) -> None:
    p, v = P.astype(dtype), V.astype(dtype)
    product = p.astype(np.float64) @ v.astype(np.float64)
    without = p.astype(np.float64) @ (v.astype(np.float64) * ~MASK[:, None, :, None])
    half = kind == "float16"
    close = {"rtol": 1e-2, "atol": 1e-2} if half else {"rtol": 1e-5, "atol": 1e-6}

    def part(name: str) -> np.ndarray:
        def emit(e: Emitter) -> str:
            own = operands(kind)
            own.map(e)
            return e.op("Identity", getattr(own.remainder(e, "mask"), name))

        return ran(emit, p=p, v=v, mask=MASK, conditional=conditional)

    assert part("product").dtype == np.float32
    np.testing.assert_allclose(part("product"), without, **close)
    assert part("untouched").dtype == (np.float64 if kind == "double" else np.float32)
    kept = half and conditional  # such a product stays where it is
    np.testing.assert_allclose(part("untouched"), product if kept else without, **close)
    assert part("like").dtype == dtype
    original = ran(lambda e: operands(kind).original(e), p=p, v=v, conditional=conditional)
    np.testing.assert_allclose(original, product, **close)


def test_the_map_is_emitted_once() -> None:
    for kind in ("float", "float16"):
        e, own = Emitter("site", 17, ConstantPool([], "c"), {}), operands(kind)
        first = own.map(e)
        count = len(e.nodes)
        assert own.map(e) == first and len(e.nodes) == count


def test_a_product_in_half_precision_is_kept_outside_the_gate() -> None:
    def kinds(conditional: bool) -> list[str]:
        e, own = Emitter("site", 17, ConstantPool([], "c"), {}, conditional=conditional), operands("float16")
        own.map(e)
        own.original(e)
        return [node.op_type for node in e.nodes]

    assert kinds(conditional=True) == ["MatMul", "Cast", "Identity"]
    assert kinds(conditional=False) == ["Cast", "MatMul"]


def test_of_a_product_the_other_way_round() -> None:
    p, v = P.swapaxes(-1, -2), V.swapaxes(-1, -2)
    got = ran(lambda e: operands(body=TURNED).remainder(e, "mask").product, p=p, v=v, mask=MASK)
    np.testing.assert_allclose(got, WITHOUT, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ran(lambda e: operands(body=TURNED).values(e), v=v), V)
    np.testing.assert_allclose(
        ran(lambda e: operands(body=TURNED).original(e), p=p, v=v), (P @ V).swapaxes(-1, -2), rtol=1e-5
    )


def test_outputs_go_into_canonical_order_and_back() -> None:
    own, out = operands(body=TURNED), (P @ V).swapaxes(-1, -2)
    canonical = ran(lambda e: own.canonical(e, "out"), out=out)
    np.testing.assert_array_equal(canonical, P @ V)
    np.testing.assert_array_equal(ran(lambda e: own.restore(e, "a", "out"), a=canonical, out=out), out)
    assert operands("double").dtype == TensorProto.DOUBLE
