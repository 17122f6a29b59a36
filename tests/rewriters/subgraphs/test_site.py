"""What is inserted at one site, run in the place of the product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rewriters.emit import ConstantPool, Emitter
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import Wiring
from rewriters.plan import BenignPair, SitePlan, Static, Statistic
from rewriters.sites import Site
from rewriters.subgraphs.site import (
    Controls,
    Replacement,
    SitePatch,
    detect_site,
    patch_site,
    redistribute_site,
    score_site,
    with_companions,
)
from tests import oracle

from ..graphs import session
from ..patterns import QK, model, scalar
from .emitted import ran
from .fixed_scores import scored_by

INPUTS = "float[B,3,S,4] q, float[B,3,T,4] k, float[B,3,T,4] v"
PLAIN = f"{QK} p = Softmax<axis = -1>(qk) out = MatMul(p, v)"
RNG = np.random.default_rng(3)
DATA = {
    "q": RNG.normal(size=(2, 3, 5, 4)).astype(np.float32),
    "k": RNG.normal(size=(2, 3, 6, 4)).astype(np.float32),
    "v": RNG.normal(size=(2, 3, 6, 4)).astype(np.float32),
}
PAIR = BenignPair(np.array([0.5], np.float32))


@dataclass(frozen=True)
class Patched:
    """Node types of the replacement, outputs of the patched graph, and what the patch says of itself."""

    kinds: list[str]
    values: dict[str, np.ndarray]
    patch: SitePatch


def patched(
    write: Callable[[Emitter, Site, Wiring], SitePatch],
    body: str = PLAIN,
    *,
    conditional: bool = True,
    opset: int = 17,
    threshold: float = 0.5,
    enabled: bool = True,
    more: tuple[str, ...] = (),
) -> Patched:
    constants = {"half": scalar(0.5)} if "half" in body else {}
    made = model(body, INPUTS, opset=17, **constants)
    (site,) = find_sites(made)[0]
    pool = [
        numpy_helper.from_array(np.float32(threshold), "threshold"),
        numpy_helper.from_array(np.array(enabled), "enabled"),
    ]
    e = Emitter("site", 17, ConstantPool(pool, "c"), {}, conditional=conditional)
    patch = write(e, site, Wiring(made.graph.node, ["out"]))
    nodes = []
    for node in made.graph.node:
        taken = next((one for one in patch.replacements if one.output in node.output), None)
        nodes += [node] if taken is None else taken.nodes
    names = [name for name in (patch.columns, patch.companions, patch.score) if name]
    outputs = ["out", *dict.fromkeys(names)]
    graph = helper.make_graph(
        nodes,
        "g",
        made.graph.input,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [*made.graph.initializer, *pool],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    got = session(built, optimize=False).run(outputs, DATA)
    kinds = [node.op_type for one in patch.replacements for node in one.nodes]
    return Patched(kinds, dict(zip(outputs, got, strict=True)), patch)


CONTROLS = Controls("enabled", "threshold")
SCORES = [[0.1, 0.9, 0.2, 0.1, 0.4, 0.1], [0.1, 0.4, 0.2, 0.1, 0.1, 0.45]]
HIGH = np.array([[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
LOWER = np.array([[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1]], bool)
JOINED = np.array([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool)
PLAN = SitePlan(scored_by(SCORES), PAIR)


def attended() -> tuple[np.ndarray, np.ndarray]:
    scores = DATA["q"].astype(np.float64) @ DATA["k"].transpose(0, 1, 3, 2)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p, p @ DATA["v"]


BOTH = pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])


@BOTH
@pytest.mark.parametrize(("companion", "columns"), [(1.0, HIGH), (0.7, JOINED)], ids=["high", "with-lower-bar"])
def test_columns_above_the_threshold_are_flagged_and_redistributed(
    companion: float, columns: np.ndarray, conditional: bool
) -> None:
    controls = replace(CONTROLS, companion=companion)
    got = patched(lambda e, site, wiring: patch_site(e, site, PLAN, controls, wiring), conditional=conditional)
    assert (got.values[got.patch.columns] == columns).all() and got.patch.companions is None and got.patch.score is None
    p, _ = attended()
    np.testing.assert_allclose(got.values["out"], oracle.joint(p, DATA["v"], columns, None, PAIR), atol=1e-5)
    assert ("If" in got.kinds) is conditional


@BOTH
@pytest.mark.parametrize("frozen", [False, True], ids=["live", "frozen"])
def test_switched_off_it_flags_nothing(frozen: bool, conditional: bool) -> None:
    controls = replace(CONTROLS, frozen=frozen)
    got = patched(
        lambda e, site, wiring: patch_site(e, site, PLAN, controls, wiring), conditional=conditional, enabled=False
    )
    assert got.values[got.patch.columns].any() == frozen
    if not frozen:
        np.testing.assert_allclose(got.values["out"], attended()[1], atol=1e-5)


@BOTH
def test_columns_of_an_earlier_site_are_flagged_here_too(conditional: bool) -> None:
    carried = np.array([[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]], bool)

    def write(e: Emitter, site: Site, wiring: Wiring) -> SitePatch:
        return patch_site(e, site, PLAN, CONTROLS, wiring, SitePatch((), e.constant(carried, np.bool_)))

    got = patched(write, conditional=conditional)
    assert (got.values[got.patch.columns] == HIGH | carried).all()
    p, _ = attended()
    np.testing.assert_allclose(got.values["out"], oracle.joint(p, DATA["v"], HIGH | carried, None, PAIR), atol=1e-5)


@BOTH
@pytest.mark.parametrize("sees_all", [True, False], ids=["alike", "not alike"])
def test_a_column_of_an_earlier_site_may_be_padding_here(sees_all: bool, conditional: bool) -> None:
    """It counts neither as flagged nor as unflagged; a later site with the same padding is told."""
    low = "l = Constant<value_floats = [0.0, -1e9, 0.0, 0.0, 0.0, 0.0]>()"
    far = PLAIN.replace("p = Softmax", f"{low} m = Add(qk, l) p = Softmax").replace("(qk) out", "(m) out")
    carried = np.array([[0, 1, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]], bool)
    plan = replace(PLAN, every_row_sees_every_column=sees_all)

    def write(e: Emitter, site: Site, wiring: Wiring) -> SitePatch:
        earlier = SitePatch((), e.constant(carried, np.bool_), valid="of another site")
        return patch_site(e, site, plan, CONTROLS, wiring, earlier)

    got = patched(write, far, conditional=conditional)
    assert got.patch.valid is None and (got.values[got.patch.columns] == carried).all()
    p = attended()[0] * (np.arange(6) != 1)
    p /= p.sum(-1, keepdims=True)
    valid = np.tile(np.arange(6) != 1, (2, 1))
    want = oracle.joint(p, DATA["v"], carried & valid, valid, PAIR)
    np.testing.assert_allclose(got.values["out"], want, atol=1e-5)


@BOTH
@pytest.mark.parametrize("companion", [1.0, 0.7], ids=["high", "with-lower-bar"])
def test_detection_leaves_the_output_as_it_is(companion: float, conditional: bool) -> None:
    controls = replace(CONTROLS, companion=companion)
    got = patched(lambda e, site, wiring: detect_site(e, site, PLAN, controls, wiring), conditional=conditional)
    assert (got.values[got.patch.columns] == HIGH).all()
    if companion == 1.0:
        assert got.patch.companions is None
    else:
        assert (got.values[str(got.patch.companions)] == LOWER).all()
    np.testing.assert_allclose(got.values["out"], attended()[1], atol=1e-5)


@BOTH
def test_only_scores(conditional: bool) -> None:
    got = patched(lambda e, site, wiring: score_site(e, site, PLAN, wiring), conditional=conditional)
    np.testing.assert_allclose(got.values[str(got.patch.score)], SCORES)
    assert got.patch.columns == ""
    np.testing.assert_allclose(got.values["out"], attended()[1], atol=1e-5)


def test_padding_has_no_score() -> None:
    """A column that no row gives anything to."""
    low = "l = Constant<value_floats = [0.0, 0.0, -1e9, 0.0, 0.0, 0.0]>()"
    far = PLAIN.replace("p = Softmax", f"{low} m = Add(qk, l) p = Softmax")
    got = patched(lambda e, site, wiring: score_site(e, site, PLAN, wiring), far.replace("(qk) out", "(m) out"))
    score = got.values[str(got.patch.score)]
    assert np.isneginf(score[:, 2]).all() and np.isfinite(np.delete(score, 2, 1)).all()


@BOTH
def test_padding_is_not_flagged(conditional: bool) -> None:
    low = "l = Constant<value_floats = [0.0, -1e9, 0.0, 0.0, 0.0, 0.0]>()"
    far = PLAIN.replace("p = Softmax", f"{low} m = Add(qk, l) p = Softmax").replace("(qk) out", "(m) out")
    got = patched(lambda e, site, wiring: patch_site(e, site, PLAN, CONTROLS, wiring), far, conditional=conditional)
    assert not got.values[got.patch.columns].any()


def test_a_silent_site_has_no_score() -> None:
    got = patched(lambda e, site, wiring: score_site(e, site, SitePlan(Static()), wiring))
    assert got.patch.score is None and got.kinds == ["MatMul"]


@BOTH
def test_only_redistribution(conditional: bool) -> None:
    def write(e: Emitter, site: Site, wiring: Wiring) -> SitePatch:
        redistribute_site(e, site, PLAN, e.constant(LOWER, np.bool_), wiring.maker[site.product], "out")
        return SitePatch((Replacement("out", tuple(e.nodes)),))

    got = patched(write, conditional=conditional)
    p, _ = attended()
    np.testing.assert_allclose(got.values["out"], oracle.joint(p, DATA["v"], LOWER, None, PAIR), atol=1e-5)


def test_companions_count_in_flagged_samples_only() -> None:
    for conditional in (True, False):
        got = ran(lambda e: with_companions(e, "high", "lower"), high=HIGH, lower=LOWER, conditional=conditional)
        assert (got == JOINED).all()


@pytest.mark.parametrize("columns", [(), (2,)], ids=str)
def test_fixed_columns_need_no_threshold(columns: tuple[int, ...]) -> None:
    controls = replace(CONTROLS, companion=0.5)
    got = patched(
        lambda e, site, wiring: detect_site(e, site, SitePlan(Static(columns)), controls, wiring), threshold=np.inf
    )
    assert (got.values[got.patch.columns] == np.isin(np.arange(6), columns)).all() and got.patch.companions is None


def test_a_product_whose_factor_is_scaled_stays_outside_the_gate() -> None:
    """onnxruntime takes such a number into the product, and rounds differently then."""
    plan = SitePlan(Statistic(()), PAIR)

    def kinds(body: str) -> list[str]:
        return patched(lambda e, site, wiring: patch_site(e, site, plan, CONTROLS, wiring), body).kinds

    scaled = "w = Mul(v, half) out = MatMul(p, w)"
    for body in (
        scaled,
        scaled.replace("Mul(v, half)", "Div(v, half)"),
        scaled.replace("Mul(v, half)", "Mul(half, v)"),
    ):
        assert kinds(PLAIN.replace("out = MatMul(p, v)", body))[0] == "MatMul"
    node = "c = Constant<value_float = 0.5>() w = Mul(p, c) out = MatMul(w, v)"
    assert kinds(PLAIN.replace("out = MatMul(p, v)", node))[0] == "MatMul"
    for body in ("w = Add(v, half) out = MatMul(p, w)", "n = Neg(v) w = Mul(n, n) out = MatMul(p, w)"):
        assert kinds(PLAIN.replace("out = MatMul(p, v)", body))[0] != "MatMul"
