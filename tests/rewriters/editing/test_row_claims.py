"""A plan that says "every row sees every column" is believed only where the graph shows it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from rewriters.editing import row_claims
from rewriters.editing.patcher import patch
from rewriters.editing.row_claims import ShownRows
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static
from tests import oracle

from ..finding.projections import soft, weight
from ..graphs import run

B, N, C = 3, 6, 8
X = np.random.default_rng(1).normal(size=(B, N, C)).astype(np.float32)
PAIR = BenignPair(np.array([0.5], np.float32), np.full((1, 1, C), 0.3, np.float32))
CAUSAL = np.tril(np.ones((N, N), bool))
SECOND = np.arange(N)[None, :] != np.where(np.arange(N) < 3, 0, 5)[:, None]

# id → nodes from `scaled` to the map `p`, which columns a row sees, whether the claim holds
CASES = {
    "nothing-masked": ("p = Softmax<axis = -1>(scaled)", np.ones((N, N), bool), True),
    "position-bias": ("s = Add(scaled, bias) p = Softmax<axis = -1>(s)", np.ones((N, N), bool), True),
    "causal-constant": ("s = Add(scaled, lower) p = Softmax<axis = -1>(s)", CAUSAL, False),
    "causal-chosen": ("s = Where(sees, scaled, low) p = Softmax<axis = -1>(s)", CAUSAL, False),
    "causal-of-the-length": (
        "shape = Shape(scaled) n = Gather<axis = 0>(shape, last) i = Range(nought, n, unit) "
        "r = Unsqueeze(i, last) c = Unsqueeze(i, nought1) sees0 = GreaterOrEqual(r, c) "
        "s = Where(sees0, scaled, low) p = Softmax<axis = -1>(s)",
        CAUSAL,
        False,
    ),
    "taken-from-the-map": ("m = Softmax<axis = -1>(scaled) p = Where(sees, m, zero)", CAUSAL, False),
    "each-half-another-column": ("s = Where(second, scaled, low) p = Softmax<axis = -1>(s)", SECOND, False),
}
BIAS = np.random.default_rng(2).normal(size=(N, N)).astype(np.float32)


def model_of(name: str) -> onnx.ModelProto:
    text = CASES[name][0]
    length = "S" if name in ("nothing-masked", "causal-of-the-length") else N
    body = (
        "q = MatMul(x, wq) k = MatMul(x, wk) kt = Transpose<perm = [0, 2, 1]>(k) v = MatMul(x, wv) raw = MatMul(q, kt) "
        f"scaled = Mul(raw, tenth) {text} out = MatMul(p, v)"
    )
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[B,{length},8] x) => (float[B,S,8] out) {{ {body} }}'
    )
    constants = {name: weight(name) for name in ("wq", "wk", "wv")} | {
        "tenth": np.float32(0.1),
        "low": np.float32(-1e9),
        "zero": np.float32(0),
        "lower": np.where(CAUSAL, 0, -1e9).astype(np.float32),
        "sees": CAUSAL,
        "second": SECOND,
        "bias": BIAS,
        "last": np.array(-1),
        "nought": np.array(0),
        "nought1": np.array([0]),
        "unit": np.array(1),
    }
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items() if name in read
    )
    return model


def map_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    q, k, v = (X.astype(np.float64) @ weight(n) for n in ("wq", "wk", "wv"))
    scores = q @ k.transpose(0, 2, 1) * 0.1 + (BIAS if name == "position-bias" else 0)
    sees = CASES[name][1]
    a = soft(scores) * sees if name == "taken-from-the-map" else soft(np.where(sees, scores, -1e9))
    return a[:, None], v[:, None]


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("columns", [(0,), (3,), (0, 4)])
@pytest.mark.parametrize("name", CASES)
def test_rows_that_do_not_see_a_column_keep_what_they_have(name: str, columns: tuple[int, ...], gating: str) -> None:
    model = model_of(name)
    (site,), _ = find_sites(model)
    a, v = map_of(name)
    np.testing.assert_allclose(run(model, {"x": X})["out"], (a @ v)[:, 0], atol=1e-4)
    flagged = np.zeros((B, N), bool)
    flagged[:, list(columns)] = True
    plan = PatchPlan({site.id: SitePlan(Static(columns), PAIR, every_row_sees_every_column=True)}, gating=gating)
    got = run(patch(model, plan, [site]), {"x": X})["out"]
    np.testing.assert_allclose(got, oracle.joint(a, v, flagged, None, PAIR)[:, 0], atol=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_short_form_is_written_where_the_claim_is_shown(name: str) -> None:
    model = model_of(name)
    (site,), _ = find_sites(model)
    claimed, careful = (
        patch(model, PatchPlan({site.id: SitePlan(Static((1,)), PAIR, every_row_sees_every_column=said)}), [site])
        for said in (True, False)
    )
    assert (claimed.graph == careful.graph) is not CASES[name][2]


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_of_the_rows_is_not_looked_for_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, looked = model_of(name), []

    class Counted(row_claims.RowMasks):  # type: ignore[misc, name-defined]
        def __init__(self, model: onnx.ModelProto) -> None:
            looked.append(model)
            super().__init__(model)

    monkeypatch.setattr(row_claims, "RowMasks", Counted)
    (site,), _ = find_sites(model)
    plans = [
        PatchPlan({site.id: SitePlan(Static((column,)), PAIR, every_row_sees_every_column=True)}) for column in (1, 2)
    ]
    alone = [patch(model, plan, [site]).SerializeToString(deterministic=True) for plan in plans]
    each, rows = len(looked), ShownRows(model)
    together = [patch(model, plan, [site], rows=rows).SerializeToString(deterministic=True) for plan in plans]
    assert together == alone
    assert len(looked) - each == each / 2 <= 1
