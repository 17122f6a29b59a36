"""What is said of samples, heads and padding is shown by the graph; each counterexample is patched, run, and held
against numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.finding.samples import samples_in
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from tests import oracle

from ..graphs import run
from .graph_text import read, text_model
from .projections import soft, weight

Array = np.ndarray
B, N, C, H = 3, 6, 8, 2
X = np.random.default_rng(1).normal(size=(B, N, C)).astype(np.float32)
VALID = np.arange(N)[None] < np.array([[N], [N - 2], [N - 3]])
LOWER = np.tril(np.ones((N, N)))
PER_HEAD = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1]])
SHAPES = {"split": [0, 0, H, C // H], "one": [1], "ends": [0, 2], "outer": [0, 1], "rows": [1, 2]}


def factors() -> tuple[Array, Array, Array]:
    """(B, H, N, C / H) each."""
    return tuple(
        (X.astype(np.float64) @ weight(n)).reshape(B, N, H, -1).transpose(0, 2, 1, 3) for n in ("wq", "wk", "wv")
    )  # type: ignore[return-value]


def attend(hidden: Array) -> tuple[Array, Array]:
    """Map and values of samples first; `hidden` (B | 1, H | 1, N | 1, N): 0 where a column is shut."""
    q, k, v = factors()
    return soft(q @ k.transpose(0, 1, 3, 2) * 0.1 + np.where(hidden > 0, 0.0, -1e9)), v


@dataclass(frozen=True)
class Case:
    """`lead`: where samples lie in the map; `mask`: how the input `name`, `fed`, comes to the scores; `hidden`: what
    that shuts.
    """

    key_mask: bool
    mask: str
    fed: Array
    hidden: Callable[[], Array]
    heads_first: bool = False
    shape: str = "B,S"

    def model(self) -> onnx.ModelProto:
        order, keys = ([2, 0, 1, 3], [2, 0, 3, 1]) if self.heads_first else ([0, 2, 1, 3], [0, 2, 3, 1])
        parts = ""
        for n, perm in (("q", order), ("k", keys), ("v", order)):
            parts += f"{n}0 = MatMul(x, w{n}) {n}1 = Reshape({n}0, split) {n} = Transpose<perm = {perm}>({n}1) "
        text = (
            f"{parts} raw = MatMul(q, k) t = Mul(raw, tenth) {self.mask} p = Softmax<axis = -1>(s) out = MatMul(p, v)"
        )
        inputs = f"float[B,S,8] x, int64[{self.shape}] mask"
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[b,c,d,e] out) {{ {text} }}'
        )
        constants: dict[str, Array] = {name: weight(name) for name in ("wq", "wk", "wv")}
        constants |= {"tenth": np.float32(0.1), "unit": np.float32(1), "low": np.float32(-1e9)}
        constants |= {name: np.array(value) for name, value in SHAPES.items()}
        read = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items() if name in read
        )
        return model

    def feeds(self) -> dict[str, Array]:
        return {"x": X, "mask": self.fed.astype(np.int64)}


def added(axes: str, low: str = "i") -> str:
    return f"m = Unsqueeze(mask, {axes}) f = Cast<to = 1>(m) i = Sub(unit, f) h = Mul({low}, low) s = Add(t, h) "


WHOLE = VALID[:, None, None]
CASES = {
    "samples-first": Case(True, added("rows"), VALID, lambda: WHOLE),
    "heads-first": Case(True, added("ends"), VALID, lambda: WHOLE, heads_first=True),
    "a-mask-of-each-head": Case(False, added("ends"), PER_HEAD, lambda: PER_HEAD[None, :, None], shape="2,S"),
    "a-mask-of-each-head-heads-first": Case(
        False, added("rows"), PER_HEAD, lambda: PER_HEAD[None, :, None], heads_first=True, shape="2,S"
    ),
    "a-mask-of-rows-and-columns": Case(False, added("outer"), LOWER, lambda: LOWER[None, None], shape="S,S"),
    "one-is-padding": Case(False, added("rows", "f"), ~VALID, lambda: WHOLE),
    "shut-both-ways": Case(
        False,
        "m = Unsqueeze(mask, rows) f = Cast<to = 1>(m) i = Sub(unit, f) h = Mul(i, low) g = Mul(f, low) "
        "a = Add(t, h) s = Add(a, g) ",
        VALID,
        lambda: np.ones((1, 1, 1, N)),
    ),
}  # fmt: skip
each_case = pytest.mark.parametrize("name", CASES)


@each_case
def test_a_key_mask_is_one_of_samples_and_columns(name: str) -> None:
    (site,), rejected = find_sites(CASES[name].model())
    assert not rejected
    assert site.key_mask == ("mask" if CASES[name].key_mask else None)
    assert site.heads == H


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("kind", ["statistic", "static"])
@each_case
def test_a_firing_patch_runs_and_agrees_with_numpy(name: str, kind: str, gating: str) -> None:
    case = CASES[name]
    if name == "shut-both-ways" and kind == "statistic":
        pytest.skip("scores of -1e9 have no digits left for a statistic")
    model = case.model()
    (site,), _ = find_sites(model)
    a, v = attend(case.hidden())
    order = (1, 0, 2, 3) if case.heads_first else (0, 1, 2, 3)
    atol = 10.0 if name == "shut-both-ways" else 5e-4
    np.testing.assert_allclose(run(model, case.feeds())["out"].transpose(order), a @ v, atol=atol)
    valid = VALID if case.key_mask else a.max((1, 2)) > 1e-30
    detector, threshold = (Static((1, 2)), 0.0) if kind == "static" else (Statistic(exempt=()), 0.5)
    columns = np.zeros_like(valid)
    columns[:, [1, 2]] = True
    if kind == "statistic":
        columns = oracle.statistic(a, valid, Statistic(exempt=()), site.self_attention) > threshold
    columns = columns & valid
    assert columns.any()
    pair = BenignPair(np.array([0.5], np.float32), np.full((1, 1, C // H), 0.3, np.float32))
    plan = PatchPlan({site.id: SitePlan(detector, pair)}, threshold=threshold, gating=gating, telemetry=True)
    got = run(patch(model, plan, [site]), case.feeds())
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], columns)
    if atol < 1:
        np.testing.assert_allclose(got["out"].transpose(order), oracle.joint(a, v, columns, valid, pair), atol=1e-3)


@pytest.mark.parametrize("heads_first", [False, True])
def test_a_sample_without_a_flag_does_not_change_next_to_a_flagged_one(heads_first: bool) -> None:
    case = CASES["heads-first" if heads_first else "samples-first"]
    model = case.model()
    (site,), _ = find_sites(model)
    before = run(model, case.feeds())["out"]
    plan = PatchPlan({site.id: SitePlan(Statistic(exempt=()))}, threshold=1.5, telemetry=True)
    got = run(patch(model, plan, [site]), case.feeds())
    flagged = got[f"atpatch_columns/{site.id}"].any(1)
    assert flagged.any()
    assert not flagged.all()
    axis = 1 if heads_first else 0
    np.testing.assert_array_equal(
        np.take(got["out"], np.flatnonzero(~flagged), axis), np.take(before, np.flatnonzero(~flagged), axis)
    )


@pytest.mark.parametrize("windows", [False, True])
def test_windows_numbered_with_samples_are_no_heads(windows: bool) -> None:
    """Both lie in the leading axis of a rank-3 map; a window is a sample of its own, heads are not."""
    order, tokens = ([0, 1, 2, 3], "x4") if windows else ([0, 2, 1, 3], "x")
    text = "x4 = Reshape(x, windows) " if windows else ""
    for n in "qkv":
        text += f"{n}0 = MatMul({tokens}, w{n}) {n}1 = Reshape({n}0, apart) {n}2 = Transpose<perm = {order}>({n}1) "
        text += f"{n} = Reshape({n}2, joined) "
    text += "kt = Transpose<perm = [0, 2, 1]>(k) raw = MatMul(q, kt) p = Softmax<axis = -1>(raw) out = MatMul(p, v)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[B,6,8] x) => (float[b,c,d] out) {{ {text} }}'
    )
    shapes = {"apart": [0, N, H, C // H], "joined": [-1, N, C // H]}
    if windows:
        shapes = {"windows": [-1, 2, 3, C], "apart": [-1, 2, 3, C], "joined": [-1, 3, C]}
    constants = {name: weight(name) * 0.3 for name in ("wq", "wk", "wv")} | {
        name: np.array(shape) for name, shape in shapes.items()
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    (site,), _ = find_sites(model)
    assert site.layout.merged_heads == (None if windows else H)
    factors = ((X.astype(np.float64) @ (weight(n) * 0.3)) for n in ("wq", "wk", "wv"))
    q, k, v = (t.reshape(B * 2, 1, 3, C) if windows else t.reshape(B, N, H, -1).transpose(0, 2, 1, 3) for t in factors)
    a = soft(q @ k.transpose(0, 1, 3, 2))
    scores = oracle.statistic(a, None, Statistic(exempt=()), site.self_attention)
    threshold = float(np.sort(scores.max(1))[-2:].mean())  # flags one sample
    columns = scores > threshold
    assert columns.any(1).sum() == 1
    pair = BenignPair(np.array([0.5], np.float32), np.full((1, 1, v.shape[-1]), 0.3, np.float32))
    plan = PatchPlan({site.id: SitePlan(Statistic(exempt=()), pair)}, threshold=threshold, telemetry=True)
    got = run(patch(model, plan, [site]), {"x": X})
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], columns)
    np.testing.assert_allclose(got["out"], oracle.joint(a, v, columns, None, pair).reshape(got["out"].shape), atol=1e-4)


@pytest.mark.parametrize("lost", ["values", "tokens-first"])
def test_heads_first_is_seen_where_less_is_known(lost: str) -> None:
    """A cache before the values has dimensions of other names; where tokens come first, samples are no first axis of
    any input.
    """
    parts = ""
    for n, perm in (("q", [2, 0, 1, 3]), ("k", [2, 0, 3, 1]), ("v", [2, 0, 1, 3])):
        cached = f"{n}0 = Concat<axis = 1>(past, {n}p)" if (lost, n) == ("values", "v") else f"{n}0 = Identity({n}p)"
        parts += f"{n}p = MatMul(t, w{n}) {cached} {n}1 = Reshape({n}0, split) {n} = Transpose<perm = {perm}>({n}1) "
    swapped = lost == "tokens-first"
    text = f"t = {'Transpose<perm = [1, 0, 2]>' if swapped else 'Identity'}(x) {parts} raw = MatMul(q, k) "
    text += "p = Softmax<axis = -1>(raw) out = MatMul(p, v)"
    inputs = "float[S,B,8] x" if swapped else "float[B,S,8] x, float[D,P,8] past"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[b,c,d,e] out) {{ {text} }}'
    )
    constants = {name: weight(name) * 0.3 for name in ("wq", "wk", "wv")} | {"split": np.array(SHAPES["split"])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    (site,), _ = find_sites(model)
    assert site.heads == H
    q, k, v = (
        (X.astype(np.float64) @ (weight(n) * 0.3)).reshape(B, N, H, -1).transpose(0, 2, 1, 3)
        for n in ("wq", "wk", "wv")
    )
    a = soft(q @ k.transpose(0, 1, 3, 2))
    scores = oracle.statistic(a, None, Statistic(exempt=()), site.self_attention)
    threshold = float(np.sort(scores.max(1))[-2:].mean())  # flags one sample
    columns = scores > threshold
    pair = BenignPair(np.array([0.5], np.float32), np.full((1, 1, C // H), 0.3, np.float32))
    plan = PatchPlan({site.id: SitePlan(Statistic(exempt=()), pair)}, threshold=threshold, telemetry=True)
    feeds = {"x": X.transpose(1, 0, 2)} if swapped else {"x": X, "past": np.zeros((B, 0, C), np.float32)}
    got = run(patch(model, plan, [site]), feeds)
    np.testing.assert_array_equal(got[f"atpatch_columns/{site.id}"], columns)
    np.testing.assert_allclose(got["out"].transpose(1, 0, 2, 3), oracle.joint(a, v, columns, None, pair), atol=1e-4)


def test_heads_of_a_single_sample_are_no_samples() -> None:
    """Where the number of samples is fixed to 1, their axis leads nowhere, and that of the heads to the second of the
    inputs.
    """
    text = "k2 = Transpose<perm = [0, 1, 3, 2]>(k) raw = MatMul(q, k2) p = Softmax<axis = -1>(raw) out = MatMul(p, v)"
    inputs = ", ".join(f"float[1,{H},{N},4] {name}" for name in "qkv")
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[b,c,d,e] out) {{ {text} }}'
    )
    (site,), _ = find_sites(model)
    assert (site.heads, site.layout.probabilities) == (H, None)
    feeds = {
        name: np.random.default_rng(i).normal(size=(1, H, N, 4)).astype(np.float32) for i, name in enumerate("qkv")
    }
    plan = PatchPlan({site.id: SitePlan(Static((1,)))}, telemetry=True)
    assert run(patch(model, plan, [site]), feeds)[f"atpatch_columns/{site.id}"].shape == (1, N)


class TestWhereSamplesLie:
    """Operators between score product and map, and the axis of their output that counts samples."""

    FOUR = "float[B,3,S,4] q, float[B,3,4,T] k, float[B,3,T,4] v, float[B,1,1,T] bias"

    @staticmethod
    def found(
        body: str, inputs: str = FOUR, merged: int | None = None, lead: int = 0, **sizes: Array
    ) -> dict[str, int]:
        reading = read(body, inputs, half=np.float32(0.5), **sizes)
        anchor, hit, scores = reading.walks()
        if lead:
            ranks = range(hit.product.rank)
            product = hit.product.reordered((lead, *(axis for axis in ranks if axis != lead)))
            hit = replace(hit, product=product)
        source = hit.product.node.inputs[0]
        assert source is not None
        samples = samples_in(reading.view, reading.facts, anchor, hit, scores, source, merged)
        return {str(node.outputs[0].name): axis for node, axis in samples.items()}

    ATTEND = (
        "s = MatMul(q, k) m = Add(s, bias) n = Mul(m, half) p = Softmax<axis = -1>(n) i = Identity(p)"
        " out = MatMul(i, v)"
    )

    def test_in_front(self) -> None:
        assert self.found(self.ATTEND) == {"m": 0, "n": 0, "p": 0}

    def test_behind_the_heads(self) -> None:
        assert self.found(self.ATTEND, self.FOUR, lead=1) == {"m": 1, "n": 1, "p": 1}
        assert self.found(self.ATTEND, self.FOUR.replace("[B,3", "[3,B"), lead=1) == {"m": 1, "n": 1, "p": 1}

    def test_merged_with_heads(self) -> None:
        """The leading axis counts them whole only where heads have an axis of their own."""
        inputs = "float[12,5,4] q, float[12,4,7] k, float[12,7,4] v, float[4,1,1,7] bias"
        body = (
            "s = MatMul(q, k) a = Reshape(s, four) m = Add(a, bias) b = Reshape(m, three) p = Softmax<axis = -1>(b)"
            " out = MatMul(p, v)"
        )
        sizes = {"four": np.array([4, 3, 5, 7]), "three": np.array([12, 5, 7])}
        assert self.found(body, inputs, merged=3, **sizes) == {"a": 0, "m": 0}
        assert self.found(body, inputs, merged=None, **sizes) == {"b": 0, "p": 0}

    def test_moved_on_the_way(self) -> None:
        body = (
            "s = MatMul(q, k) t = Transpose<perm = [1, 0, 2, 3]>(s) m = Mul(t, half)"
            " u = Transpose<perm = [1, 0, 2, 3]>(m) p = Softmax<axis = -1>(u) out = MatMul(p, v)"
        )
        assert self.found(body) == {"u": 0, "p": 0}
        assert self.found(body, lead=1) == {"t": 0, "m": 0, "u": 1, "p": 1}

    def test_nowhere_in_a_single_map(self) -> None:
        body = "s = MatMul(q, k) p = Softmax<axis = -1>(s) out = MatMul(p, v)"
        assert self.found(body, "float[S,4] q, float[4,T] k, float[T,4] v") == {}
        assert self.found(body, "float[B,S,4] q, float[B,4,T] k, float[B,T,4] v") == {"p": 0}


SPLIT = "q = MatMul(x, w) r = Reshape(q, split) a = Transpose<perm = {0}>(r) kt = Transpose<perm = {1}>(r)"
MAP = "s = MatMul(a, kt) p = Softmax<axis = -1>(s) out = MatMul(p, a)"
LEADS = {
    "samples": ("[0, 2, 1, 3]", "[0, 2, 3, 1]", None),
    "heads": ("[2, 0, 1, 3]", "[2, 0, 3, 1]", (1, 0, 2, 3)),
}


@pytest.mark.parametrize("lead", LEADS)
def test_samples_are_put_first(lead: str) -> None:
    perm, turned, order = LEADS[lead]
    body = f"{SPLIT.format(perm, turned)} {MAP}"
    made = text_model(body, "float[B,S,8] x", "float[H,B,S,D] out", w=weight("wq"), split=np.array([0, 0, 2, 4]))
    (site,) = find_sites(made)[0]
    layout = site.layout
    assert (layout.probabilities, layout.values, layout.output) == (order, order, order)
