"""Maps of rank 5, heads in groups that share keys: flags are one row for each sample and group, and never of another
sample.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
import onnx
import onnx.parser
import pytest

from atpatch_onnx.serve.arms import Result
from atpatch_onnx.serve.outcome import flags
from rewriters.editing.observe import observe
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Statistic
from tests import oracle

from ..graphs import run
from .projections import soft, weight

B, N, C, G, H = 3, 6, 8, 2, 2
X = np.random.default_rng(12).normal(size=(B, N, C)).astype(np.float32)
"""Drawn so that the middle sample has the strongest column, whichever axis is taken for the heads."""
LETTERS = {"b": 0, "g": 2, "h": 3}
ORDERS = ["".join(order) for order in permutations("bgh")]
"""Which axes lead the map, in the order in which they lie in memory."""


def made(order: str) -> onnx.ModelProto:
    lead = [LETTERS[letter] for letter in order]
    text = ""
    for n, perm in (("q", [*lead, 1, 4]), ("k", [*lead, 4, 1]), ("v", [*lead, 1, 4])):
        text += f"{n}0 = MatMul(x, w{n}) {n}1 = Reshape({n}0, split) {n} = Transpose<perm = {perm}>({n}1) "
    text += "raw = MatMul(q, k) p = Softmax<axis = -1>(raw) out = MatMul(p, v)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[B,S,8] x) => (float[b,c,d,e,f] out) {{ {text} }}'
    )
    constants = {name: weight(name) * 0.3 for name in ("wq", "wk", "wv")} | {
        "split": np.array([0, 0, G, H, C // G // H])
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    return model


def attend() -> tuple[np.ndarray, np.ndarray]:
    """Map and values (B, G, H, ...)."""
    q, k, v = (
        (X.astype(np.float64) @ (weight(n) * 0.3)).reshape(B, N, G, H, -1).transpose(0, 2, 3, 1, 4)
        for n in ("wq", "wk", "wv")
    )
    return soft(q @ k.swapaxes(-1, -2)), v


@pytest.mark.parametrize("order", ORDERS)
def test_samples_are_distinguished_on_whichever_axis_they_lie(order: str) -> None:
    model = made(order)
    (site,), rejected = find_sites(model)
    assert not rejected
    a, v = attend()
    # What is left of the order once samples are first says which of the two others is taken for the heads.
    rest = order.replace("b", "")
    turn = (0, *("bgh".index(letter) for letter in rest), 3, 4)
    a4, v4 = (t.transpose(turn).reshape(-1, 2, *t.shape[3:]) for t in (a, v))
    scores = oracle.statistic(a4, None, Statistic(exempt=()), site.self_attention)
    threshold = float(np.sort(scores.max(1))[-2:].mean())
    columns = scores > threshold  # one row of one sample
    assert np.flatnonzero(columns.any(1)) // 2 == [1]
    pair = BenignPair(np.array([0.5], np.float32), np.full((1, 1, v.shape[-1]), 0.3, np.float32))
    plan = PatchPlan({site.id: SitePlan(Statistic(exempt=()), pair)}, threshold=threshold)
    told = observe(patch(model, plan, [site]))
    assert told.sites == (site.id,)
    got = run(told.model, {"x": X})
    mask = got[f"atpatch_columns/{site.id}"]
    np.testing.assert_array_equal(mask, columns)
    sample = columns.reshape(B, 2, N).any(1)
    np.testing.assert_array_equal(got["atpatch_flagged"][:, 0], sample.any(1))
    want = oracle.joint(a4, v4, columns, None, pair).reshape(v.transpose(turn).shape)
    memory = "b" + rest + "qd"
    np.testing.assert_allclose(got["out"], want.transpose([memory.index(letter) for letter in order + "qd"]), atol=1e-4)
    flagged, where = flags(Result({}, {site.id: mask}, finite=None, judged=None, alarm_scores=None, computed=0.0), B)
    assert flagged == sample.any(1).tolist()
    assert where == {site.id: [np.flatnonzero(row).tolist() for row in sample]}


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("shared", ["B,1,2", "1,W,2", "W,2", "2"])
def test_keys_and_values_may_be_shared_by_groups_or_samples(shared: str, gating: str) -> None:
    """Queries (B, W, 2, N, D) in W windows; what one row of flags is for has values of its own all the same."""
    sizes = {"B": B, "W": 3, "1": 1, "2": H}
    lead = shared.split(",")
    perm = [*range(len(lead)), len(lead) + 1, len(lead)]
    text = f"kt = Transpose<perm = {perm}>(k) raw = MatMul(q, kt) p = Softmax<axis = -1>(raw) out = MatMul(p, v)"
    inputs = f"float[B,W,2,N,4] q, float[{shared},M,4] k, float[{shared},M,4] v"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[a,b,c,d,e] out) {{ {text} }}'
    )
    rng = np.random.default_rng(7)
    fed = {n: rng.normal(size=(*(sizes[s] for s in lead), N, 4)).astype(np.float32) for n in "kv"}
    fed["q"] = rng.normal(size=(B, 3, H, N, 4)).astype(np.float32)
    q, k, v = (fed[n].astype(np.float64) for n in "qkv")
    a, v = (
        np.broadcast_to(t, (B, 3, H, N, t.shape[-1])).reshape(-1, H, N, t.shape[-1])
        for t in (soft(q @ k.swapaxes(-1, -2)), v)
    )
    (site,), _ = find_sites(model)
    scores = oracle.statistic(a, None, Statistic(exempt=()), site.self_attention)
    threshold = float(np.median(scores.max(1)))
    columns = scores > threshold
    assert columns.any(1).any() and not columns.any(1).all()
    pair = BenignPair(np.array([0.5], np.float32), np.full((1, 1, 4), 0.3, np.float32))
    plan = PatchPlan({site.id: SitePlan(Statistic(exempt=()), pair)}, threshold, gating=gating, telemetry=True)
    got = run(patch(model, plan, [site]), fed)
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], columns)
    want = oracle.joint(a, v, columns, None, pair).reshape(got["out"].shape)
    np.testing.assert_allclose(got["out"], want, atol=1e-4)
