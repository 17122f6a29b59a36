"""What is in front of the query rows of a map counts heads only where the graph shows it: rows of an image are judged
each on its own. Each form is patched, run, and held against numpy.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.finding.token_groups import token_groups
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Statistic
from tests import oracle

from ..graphs import run
from .leading_axes import FORMS, Array, B, C, D, Form, H, N, R, X, weights
from .projections import soft


def loud(x: Array, place: tuple[int, ...]) -> Array:
    """The image with one place whose key points along every query: see `weights`."""
    x = x * 0.3
    x[..., 0] = 1.0
    x[place][0] = 6.0
    return x


each_form = pytest.mark.parametrize("name", FORMS)


def fed(form: Form) -> Array:
    """One place is loud, in the second row of the last sample."""
    x = loud(X, (B - 1, 1, 2))
    return x[B - 1 :] if form.batch == "1" else x


@pytest.mark.parametrize("gating", ["if", "none"])
@each_form
def test_a_column_of_one_row_counts_in_that_row_only(name: str, gating: str) -> None:
    form = FORMS[name]
    x, model = fed(form), form.model()
    (site,), rejected = find_sites(model)
    assert not rejected
    assert site.self_attention
    a, v = form.truth(x)
    rows = x.shape[2 if form.turned else 1]
    before = run(model, {"x": x})["out"]
    np.testing.assert_allclose(form.judged_first(before, len(x), rows), a @ v, atol=1e-4)
    scores = oracle.statistic(a, None, Statistic(exempt=()), site.self_attention)
    threshold = float(np.sort(scores.max(1))[-2:].mean())  # flags one entry
    columns = scores > threshold
    assert columns.any(1).sum() == 1
    pair = BenignPair(np.array([0.5], np.float32), np.full((1, 1, v.shape[-1]), 0.3, np.float32))
    plan = PatchPlan({site.id: SitePlan(Statistic(exempt=()), pair)}, threshold, gating=gating, telemetry=True)
    patched = patch(model, plan, [site])
    got = run(patched, {"x": x})
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], columns)
    np.testing.assert_array_equal(got["atpatch_flagged"][:, 0], [False] * (len(x) - 1) + [True])
    result = form.judged_first(got["out"], len(x), rows)
    np.testing.assert_allclose(result, oracle.joint(a, v, columns, None, pair), atol=1e-4)
    others = ~columns.any(1)
    np.testing.assert_array_equal(result[others], form.judged_first(before, len(x), rows)[others])
    off = run(patched, {"x": x}, atpatch_enabled=np.array(False))["out"]
    np.testing.assert_array_equal(off, before)
    quiet = {"x": X[: len(x)] * 0.01}
    np.testing.assert_array_equal(run(patched, quiet)["out"], run(model, quiet)["out"])


@each_form
def test_heads_are_what_the_layout_calls_heads(name: str) -> None:
    form = FORMS[name]
    model = form.model()
    (site,), _ = find_sites(model)
    assert site.heads == form.heads
    assert site.layout.has_heads == (form.heads is not None)
    assert site.key_mask is None
    assert token_groups(model, [site]) == ()


def cross(text: str, inputs: str, opset: int = 17) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => (float[a,b,c,d] out) {{ {text} }}'
    )
    constants = {name: weights(name) for name in ("wq", "wk", "wv")} | {"apart": np.array([0, 0, H, D])}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, name) for name, a in constants.items() if name in read
    )
    return model


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("rows", [1, R])
def test_rows_may_turn_out_to_look_at_one_row(rows: int, gating: str) -> None:
    """Whether y has as many rows as x is known when the model runs; its one row is then each one's own."""
    text = (
        "q = MatMul(x, wq) k = MatMul(y, wk) v = MatMul(y, wv) kt = Transpose<perm = [0, 1, 3, 2]>(k)"
        " raw = MatMul(q, kt) p = Softmax<axis = -1>(raw) out = MatMul(p, v)"
    )
    model = cross(text, f"float[B,R,N,{C}] x, float[B,S,M,{C}] y")
    (site,), _ = find_sites(model)
    assert site.layout.single_head
    x, y = X, loud(X[:, :rows], (B - 1, 0, 2))
    q, k, v = (t.astype(np.float64) @ weights(n) for t, n in ((x, "wq"), (y, "wk"), (y, "wv")))
    a = soft(q @ k.swapaxes(-1, -2)).reshape(B * R, 1, N, N)
    v = np.broadcast_to(v, (B, R, N, C)).reshape(B * R, 1, N, C)
    scores = oracle.statistic(a, None, Statistic(exempt=()), False)
    threshold = float(np.median(np.sort(scores.max(1))[-2:]))
    columns = scores > threshold
    pair = BenignPair(np.array([0.5], np.float32), np.full((1, 1, C), 0.3, np.float32))
    plan = PatchPlan({site.id: SitePlan(Statistic(exempt=()), pair)}, threshold, gating=gating, telemetry=True)
    got = run(patch(model, plan, [site]), {"x": x, "y": y})
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], columns)
    assert columns.any()
    np.testing.assert_allclose(got["out"].reshape(B * R, 1, N, C), oracle.joint(a, v, columns, None, pair), atol=1e-4)


@pytest.mark.parametrize("heads", [False, True])
def test_a_fused_operator_over_rows_is_refused(heads: bool) -> None:
    """`Attention` calls the second axis heads, whatever it counts."""
    text = "".join(f"{n}p = MatMul(x, w{n}) " for n in "qkv")
    for n in "qkv":
        split = f"{n}s = Reshape({n}p, apart) {n} = Transpose<perm = [0, 2, 1, 3]>({n}s) "
        text += split if heads else f"{n} = Identity({n}p) "
    shape = f"B,N,{C}" if heads else f"B,R,N,{C}"
    model = cross(text + "out = Attention(q, k, v)", f"float[{shape}] x", opset=23)
    sites, rejected = find_sites(model)
    assert [site.heads for site in sites] == ([H] if heads else [])
    assert [rejection.code for rejection in rejected] == ([] if heads else ["token-axis"])
