"""Redistribution where every row sees every valid column, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.emit import Emitter
from rewriters.finding.finder import find_sites
from rewriters.lowering.operands import ProductOperands
from rewriters.plan import BenignPair, SitePlan, Static
from rewriters.subgraphs.context import MapContext
from rewriters.subgraphs.sides import value_side
from tests import oracle

from ..patterns import QK, model
from .emitted import ran

B, H, Q, K, D = 5, 3, 4, 6, 4
RNG = np.random.default_rng(11)
V = RNG.normal(size=(B, H, K, D)).astype(np.float32)
MASK = np.zeros((B, K), bool)
MASK[0, 1] = MASK[1, [0, 2]] = MASK[3, :5] = MASK[4, 3] = True
MASK[2] = True  # everything: nothing can move
VALID = np.ones((B, K), bool)
VALID[1, 4:] = VALID[4, :2] = False
TABLE = RNG.uniform(0, 0.15, (H, Q, K)).astype(np.float32)
COLUMNS, MEANS = (RNG.normal(size=(H, rows, D)).astype(np.float32) for rows in (K, 1))
LEVELS = np.array([0.3, 0.7, 1.0], np.float32)
PAIRS = {
    "no-data": BenignPair(),
    "level": BenignPair(LEVELS, MEANS),
    "level-of-one-head": BenignPair(LEVELS[:1], MEANS[:1]),
    "level-own": BenignPair(LEVELS, own_values=True),
    "level-columns": BenignPair(LEVELS, COLUMNS),
    "high-level": BenignPair(4 * LEVELS, MEANS),
    "high-level-own": BenignPair(4 * LEVELS, own_values=True),
    "high-level-no-values": BenignPair(4 * LEVELS),
    "table": BenignPair(TABLE, COLUMNS),
    "table-means": BenignPair(TABLE[:, :1], MEANS),
    "table-own": BenignPair(TABLE, own_values=True),
    "table-no-values": BenignPair(TABLE),
    "high-table": BenignPair(9 * TABLE, COLUMNS),
    "high-table-means": BenignPair(9 * TABLE, MEANS),
}


def side(e: Emitter, pair: BenignPair, padded: bool, sums: bool) -> str:
    inputs = "float[B,3,S,4] q, float[B,3,T,4] k, float[B,3,T,4] v"
    made = model(f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)", inputs, "float[?] out")
    (site,) = find_sites(made)[0]
    operands = ProductOperands(site, made.graph.node[-1])
    context = MapContext(operands.map(e), "valid" if padded else None, True, rows_sum_to_one=sums, alike=True)
    return value_side(e, operands, SitePlan(Static(), pair, True), context, "mask")


def attended(padded: bool, sums: bool) -> np.ndarray:
    """Maps with a row of each sample that gives nearly all of its attention to one column."""
    a = RNG.dirichlet(np.ones(K), (B, H, Q)).astype(np.float32)
    a[:, :, 1] = np.where(np.arange(K) == 3, 1, 1e-9)
    a[:, :, 2] = np.where(np.arange(K) == 1, 1, 1e-9)
    if padded:
        a = a * VALID[:, None, None]
    a /= a.sum(-1, keepdims=True)
    return a if sums else a * np.float32([0.5, 1.0, 2.0, 0.8])[:, None]


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
@pytest.mark.parametrize("sums", [True, False], ids=["sum-1", "any-sum"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", PAIRS)
def test_every_benign_pair_at_saturated_and_other_rows(name: str, padded: bool, sums: bool, conditional: bool) -> None:
    pair, a = PAIRS[name], attended(padded, sums)
    arrays = {"p": a, "v": V, "mask": MASK, "valid": VALID}
    got = ran(lambda e: side(e, pair, padded, sums), conditional=conditional, **arrays)
    valid = VALID if padded else None
    mask = MASK & VALID if padded else MASK
    want = oracle.joint(a, V, mask, valid, pair, reach=False)
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)
    untouched = ran(lambda e: e.op("MatMul", "p", "v"), p=a, v=V)
    assert got[2].tobytes() == untouched[2].tobytes()
    nothing = ran(lambda e: side(e, pair, padded, sums), conditional=conditional, **{**arrays, "mask": MASK & False})
    assert nothing.tobytes() == untouched.tobytes()


@pytest.mark.parametrize("share", [4e-6, 3e-7, 3e-8, 1e-12], ids=str)
def test_the_floor(share: float) -> None:
    """Above it a row keeps its proportions, below it the rest is spread evenly."""
    a = np.zeros((B, H, Q, K), np.float32)
    a[..., 3] = 1
    a[..., [0, 4]] = np.float32(share) * np.float32([0.25, 0.75])
    mask = np.tile(np.arange(K) == 3, (B, 1))
    pair = BenignPair(np.zeros(1, np.float32))
    got = ran(lambda e: side(e, pair, False, True), p=a, v=V, mask=mask, valid=VALID)
    want = 0.25 * V[:, :, 0] + 0.75 * V[:, :, 4] if share > 1e-7 else np.delete(V, 3, 2).mean(2)
    np.testing.assert_allclose(got, np.repeat(want[:, :, None], Q, 2), atol=1e-5)
