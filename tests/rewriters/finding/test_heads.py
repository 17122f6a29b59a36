"""What is in front of the query rows of a map counts heads only where the graph shows it: rows of an image are judged
each on its own. Each form is patched, run, and held against numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from .test_self_attention import soft, weight

Array = np.ndarray
B, R, N, C, H = 2, 3, 5, 8, 2
"""Samples, rows of an image, places in a row, width, heads."""
D = C // H
LETTERS = {"b": 0, "r": 1, "n": 2, "h": 3, "d": 4}
X = np.random.default_rng(4).normal(size=(B, R, N, C)).astype(np.float32)


def loud(x: Array, place: tuple[int, ...]) -> Array:
    """The image with one place whose key points along every query: see `weights`."""
    x = x * 0.3
    x[..., 0] = 1.0
    x[place][0] = 6.0
    return x


def weights(name: str, size: int = C) -> Array:
    made = weight(name, size, size) * 0.3
    if name in ("wq", "wk"):
        made[0] = 1.0
    return made


@dataclass(frozen=True)
class Form:
    """How x (B, R, N, C) becomes q, k and v.

    Attributes:
        lead: axes in front of the query rows, as they lie in memory; letters in brackets are one axis.
        judged: axes over which each entry is judged on its own, in order; the heads, if any, are judged together.
        turned: attention along columns of the image.
        raw: values are the input itself.
        inner: weights (D, D) that all heads share, instead of (C, C).
        batch: number of samples that the graph is made for.
    """

    lead: str
    judged: str
    turned: bool = False
    raw: bool = False
    inner: bool = False
    batch: str = "B"
    rows: str = "R"

    @property
    def heads(self) -> int | None:
        return H if "h" in self.lead and "h" not in self.judged else None

    def model(self) -> onnx.ModelProto:
        """Shapes of tokens stay open, as in an export with dynamic axes."""
        text = f"t = {'Transpose<perm = [0, 2, 1, 3]>' if self.turned else 'Identity'}(x) "
        constants: dict[str, Array] = {"apart": np.array([0, 0, 0, H if "h" in self.lead else 1, -1])}
        flat = self.lead.replace("(", "").replace(")", "")
        order = [LETTERS[letter] for letter in flat]
        if "h" not in self.lead:
            order.append(3)
        sizes: list[str] = []
        text += "shape = Shape(t) "
        for letter in "brn":
            text += f"size_{letter} = Gather(shape, at_{letter}) "
            constants[f"at_{letter}"] = np.array([LETTERS[letter]])
        width = C // (H if "h" in self.lead else 1)
        constants |= {"size_h": np.array([H]), "size_d": np.array([width]), "rest": np.array([-1])}
        groups = self.lead.replace("(", " (").replace(")", ") ").split()
        for group in [part for piece in groups for part in ([piece] if piece[0] == "(" else piece)]:
            letters = group.strip("()")
            sizes.append("rest" if len(letters) > 1 else f"size_{letters}")
        text += f"joined = Concat<axis = 0>({', '.join(sizes)}, size_n, size_d) "
        for n in "qkv":
            if self.raw and n == "v":
                text += f"{n}0 = Identity(t) {n}1 = Reshape({n}0, apart) "
            elif self.inner:
                text += f"{n}0 = Reshape(t, apart) {n}1 = MatMul({n}0, w{n}) "
            else:
                text += f"{n}0 = MatMul(t, w{n}) {n}1 = Reshape({n}0, apart) "
            text += f"{n}2 = Transpose<perm = {[*order, 2, 4]}>({n}1) {n} = Reshape({n}2, joined) "
        last = len(sizes)
        text += f"kt = Transpose<perm = {[*range(last), last + 1, last]}>(k) raw = MatMul(q, kt) "
        text += "p = Softmax<axis = -1>(raw) out = MatMul(p, v)"
        result = ", ".join("abcdef"[: last + 2])
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> '
            f"g (float[{self.batch},{self.rows},N,{C}] x) => (float[{result}] out) {{ {text} }}"
        )
        constants |= {name: weights(name, D if self.inner else C) for name in ("wq", "wk", "wv")}
        read = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(a, name) for name, a in constants.items() if name in read
        )
        return model

    def truth(self, x: Array) -> tuple[Array, Array]:
        """Map and values (entries that are judged, heads, N, ·)."""
        t = x.astype(np.float64)
        t = t.transpose(0, 2, 1, 3) if self.turned else t
        heads = H if "h" in self.lead else 1

        def factor(n: str) -> Array:
            if self.raw and n == "v":
                made = t.reshape(*t.shape[:3], heads, -1)
            elif self.inner:
                made = t.reshape(*t.shape[:3], heads, -1) @ weights(f"w{n}", D)
            else:
                made = (t @ weights(f"w{n}")).reshape(*t.shape[:3], heads, -1)
            order = [LETTERS[letter] for letter in self.judged]
            return made.transpose(*order, *(a for a in (0, 1, 3) if a not in order), 2, 4)

        q, k, v = (factor(n) for n in "qkv")
        a, v = (part.reshape(-1, self.heads or 1, *part.shape[-2:]) for part in (soft(q @ k.swapaxes(-1, -2)), v))
        return a, v

    def judged_first(self, out: Array, batch: int, rows: int) -> Array:
        """The output as the graph gives it → (entries that are judged, heads, N, D)."""
        flat = self.lead.replace("(", "").replace(")", "")
        sizes = {"b": batch, "r": rows, "h": H}
        apart = out.reshape(*(sizes[letter] for letter in flat), *out.shape[-2:])
        wanted = self.judged + "".join(letter for letter in flat if letter not in self.judged)
        apart = apart.transpose(*(flat.index(letter) for letter in wanted), len(flat), len(flat) + 1)
        return apart.reshape(-1, self.heads or 1, *out.shape[-2:])


FORMS = {
    "rows": Form("br", "br"),
    "columns": Form("br", "br", turned=True),
    "rows-of-one-sample": Form("br", "br", batch="1"),
    "rows-of-known-number": Form("br", "br", rows=str(R)),
    "rows-first": Form("rb", "br"),
    "values-without-a-projection": Form("br", "br", raw=True),
    "rows-and-heads": Form("brh", "br"),
    "columns-and-heads": Form("brh", "br", turned=True),
    "heads-and-rows": Form("bhr", "br"),
    "heads-samples-rows": Form("hbr", "br"),
    "rows-as-samples": Form("(br)h", "br"),
    "rows-and-samples-alone": Form("(br)", "br"),
    "samples-and-heads-in-one": Form("(bh)r", "bhr"),
    "rows-and-heads-in-one": Form("b(rh)", "brh"),
    "heads-that-share-weights": Form("brh", "br", inner=True),
}
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
def test_heads_are_what_is_told_as_heads(name: str) -> None:
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
