"""The patched output, and no more operators than it takes."""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.emit import ConstantPool, Emitter
from rewriters.finding.finder import find_sites
from rewriters.lowering.operands import ProductOperands
from rewriters.lowering.scaled_product import ScaledOperands
from rewriters.plan import BenignPair, SitePlan, Static
from rewriters.subgraphs.context import MapContext
from rewriters.subgraphs.sides import value_side
from tests import oracle

from ..patterns import QK, model
from .emitted import ran

RNG = np.random.default_rng(2)
A = RNG.dirichlet(np.ones(5), (2, 3, 4)).astype(np.float32)
CAUSAL = np.tril(RNG.uniform(0.1, 1, (2, 3, 5, 5))).astype(np.float32)
CAUSAL /= CAUSAL.sum(-1, keepdims=True)
V = RNG.normal(size=(2, 3, 5, 4)).astype(np.float32)
MASK = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
PAIR = BenignPair(np.array([0.5], np.float32))


def side(e: Emitter, kind: str, dense: bool) -> str:
    """The patched output of P·V with the map `p` and the values `v`."""
    inputs = f"{kind}[B,3,S,4] q, {kind}[B,3,T,4] k, {kind}[B,3,T,4] v"
    made = model(f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)", inputs, f"{kind}[?] out")
    (site,) = find_sites(made)[0]
    operands = ProductOperands(site, made.graph.node[-1])
    context = MapContext(operands.map(e), None, self_attention=False, alike=dense)
    return value_side(e, operands, SitePlan(Static(), PAIR, dense), context, "mask")


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_flagged_columns_are_redistributed_and_the_rest_stays(causal: bool, kind: str) -> None:
    dtype = np.float32 if kind == "float" else np.float64
    p, v = (array.astype(dtype) for array in (CAUSAL if causal else A, V))
    mask = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool) if causal else MASK
    got = ran(lambda e: side(e, kind, dense=not causal), p=p, v=v, mask=mask)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, oracle.joint(p, v, mask, None, PAIR), atol=1e-5)
    same = slice(None, 2) if causal else slice(0)  # rows that see only flagged columns
    untouched = ran(lambda e: e.op("MatMul", "p", "v"), p=p, v=v)
    np.testing.assert_array_equal(got[1], untouched[1])
    np.testing.assert_array_equal(got[0, :, same], untouched[0, :, same])


def test_the_last_operator() -> None:
    """Only where something has to be chosen there is a choice."""

    def last(kind: str, dense: bool) -> tuple[str, list[str]]:
        e = Emitter("site", 17, ConstantPool([], "c"), {})
        side(e, kind, dense)
        return e.nodes[-1].op_type, [node.op_type for node in e.nodes[-3:]]

    assert last("float", dense=True)[0] == "Sub"
    assert last("float", dense=False)[0] == "Where"
    assert last("double", dense=True) == ("Where", ["Sub", "Cast", "Where"])


@pytest.mark.parametrize("dense", [False, True], ids=["some", "all"])
def test_a_scaled_product_is_scaled_once(dense: bool) -> None:
    """Also where the values without the flagged columns are there before the product is copied."""
    body = f"{QK} p = Softmax<axis = -1>(qk) out = com.microsoft.FusedMatMul<alpha = 0.25>(p, v)"
    made = model(body, "float[B,3,S,4] q, float[B,3,T,4] k, float[B,3,T,4] v")
    (site,) = find_sites(made)[0]
    assert site.form == "softmax+scaled"

    def scaled(e: Emitter) -> str:
        operands = ScaledOperands(site, made.graph.node[-1])
        context = MapContext(operands.map(e), None, self_attention=False, alike=dense)
        return value_side(e, operands, SitePlan(Static(), PAIR, dense), context, "mask")

    got = ran(scaled, p=A, v=V, mask=MASK)
    np.testing.assert_allclose(got, oracle.joint(A, V / 4, MASK, None, PAIR), atol=1e-5)
