"""Columns that are known when the graph is patched: four operators, which do what eq. 11 says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from rewriters.editing.observe import observe
from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.names import FLAGGED, columns_output
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from tests import oracle
from tests.tiny import attention_model

from ..editing.nested import FUNCTIONS, NESTED
from ..graphs import B, D, H, K, Q, run, session
from .products import BLOCKS, block, canonical, operators, scores_of, softmax

RNG = np.random.default_rng(7)
TABLE = RNG.uniform(0, 0.2, (H, Q, K)).astype(np.float32)
VALUES = RNG.normal(size=(H, K, D)).astype(np.float32)
PAIRS = {
    "table": BenignPair(TABLE, VALUES),
    "one-row": BenignPair(TABLE[:1, :1], VALUES[:, :1]),
    "one-head": BenignPair(TABLE[:1], VALUES[:1]),
    "more-than-the-row": BenignPair(8 * TABLE, VALUES),
    "nothing": BenignPair(0 * TABLE, VALUES),
    "own": BenignPair(TABLE, own_values=True),
    "no-values": BenignPair(TABLE),
}
COLUMNS = {"one": (3,), "two": (1, 4), "all-but-one": (0, 1, 2, 3, 4, 5), "beyond": (K + 3, 2)}


def given(layout: str = "4d", dtype: type = np.float32, sharp: float = 1.0) -> dict[str, np.ndarray]:
    shape = {"4d": (B, H, 0, D), "einsum": (B, 0, H, D)}.get(layout, (B, 0, D))
    rng = np.random.default_rng(3)
    return {
        name: (rng.normal(size=[size or rows for size in shape]) * (sharp if name == "q" else 1)).astype(dtype)
        for name, rows in zip("qkv", (Q, K, K), strict=True)
    }


def patched(
    model: onnx.ModelProto, columns: tuple[int, ...], pair: BenignPair, dense: bool = True, **options: object
) -> onnx.ModelProto:
    sites, rejected = find_sites(model)
    assert sites and not rejected
    plan = PatchPlan({site.id: SitePlan(Static(columns), pair, dense) for site in sites}, **options)  # type: ignore[arg-type]
    made = patch(model, plan, sites)
    onnx.checker.check_model(made, full_check=True)
    assert unpatch(made) == model
    return made


def one_head(pair: BenignPair) -> BenignPair:
    return replace(pair, attention=pair.attention[:1], values=None if pair.values is None else pair.values[:1])


@pytest.mark.parametrize("shown", [False, True], ids=["map-in-place", "map-read-elsewhere"])
@pytest.mark.parametrize("controls", ["optional", "none"])
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("layout", BLOCKS)
def test_every_benign_pair_in_every_layout(
    layout: str, name: str, columns: tuple[int, ...], controls: str, shown: bool
) -> None:
    pair, data = PAIRS[name], given(layout)
    if layout in ("3d", "transposed"):
        pair = one_head(pair)
    made = patched(block(layout, shown=shown), columns, pair, controls=controls)
    got = run(made, data)
    a, v = softmax(scores_of(layout, data)), canonical(layout, data["v"])
    mask = np.tile(np.isin(np.arange(K), columns), (B, 1))
    want = oracle.joint(a, v, mask, None, pair, reach=False)
    np.testing.assert_allclose(canonical(layout, got["out"], out=True), want, atol=1e-5, rtol=0)
    if shown:
        np.testing.assert_allclose(canonical("4d", got["p"]), a, atol=1e-6)
    ours = layout == "4d" or (pair.values is not None and not pair.own_values)
    assert ("If" in operators(made)) is not ours


@pytest.mark.parametrize("gating", ["if", "none"])
def test_four_operators_with_controls_and_three_without(gating: str) -> None:
    model, pair = block(), PAIRS["table"]
    live = patched(model, (3,), pair, gating=gating)
    added = sorted({*operators(live)}), len(operators(live)) - len(operators(model))
    assert added == (["Add", "MatMul", "Mul", "Softmax", "Transpose", "Where"], 4 + 1)  # one Where for all sites
    frozen = patched(model, (3,), pair, gating=gating, controls="none")
    assert len(operators(frozen)) - len(operators(model)) == 3


@pytest.mark.parametrize("opset", [11, 12, 13, 18, 21, 23])
@pytest.mark.parametrize("layout", ["4d", "3d", "transposed"])
def test_every_opset(layout: str, opset: int) -> None:
    pair, data = one_head(PAIRS["table"]) if layout != "4d" else PAIRS["table"], given(layout)
    got = run(patched(block(layout, opset=opset), (1, 4), pair), data)["out"]
    mask = np.tile(np.isin(np.arange(K), (1, 4)), (B, 1))
    want = oracle.joint(softmax(scores_of(layout, data)), canonical(layout, data["v"]), mask, None, pair, reach=False)
    np.testing.assert_allclose(canonical(layout, got, out=True), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shown", [False, True], ids=["map-in-place", "map-read-elsewhere"])
@pytest.mark.parametrize(("kind", "tolerance"), [("float", 1e-5), ("double", 1e-12), ("float16", 4e-3)])
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-it-is"])
def test_every_element_type_and_switched_off_every_bit(
    kind: str, tolerance: float, optimize: bool, shown: bool
) -> None:
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[kind]
    model, data = block(shown=shown, kind=kind), given(dtype=dtype)
    data["v"][0, 0, :, 0] = -0.0  # signs of zero are bits too
    live = session(patched(model, (1, 4), PAIRS["table"]), optimize=optimize)
    (got,) = live.run(["out"], data)
    assert got.dtype == dtype
    mask = np.tile(np.isin(np.arange(K), (1, 4)), (B, 1))
    a, v = softmax(scores_of("4d", data)), data["v"].astype(np.float64)
    np.testing.assert_allclose(got, oracle.joint(a, v, mask, None, PAIRS["table"], reach=False), atol=tolerance, rtol=0)
    (off,) = live.run(["out"], {**data, "atpatch_enabled": np.array(False)})
    (before,) = session(model, optimize=optimize).run(["out"], data)
    assert off.tobytes() == before.tobytes()


@pytest.mark.parametrize("share", [1e-2, 1e-4, 4e-6, 3e-7, 3e-8, 1e-12, 1e-30], ids=str)
@pytest.mark.parametrize("shown", [False, True], ids=["map-in-place", "map-read-elsewhere"])
def test_however_much_a_flagged_column_had_the_others_keep_their_proportions(share: float, shown: bool) -> None:
    """So an attribute that takes nearly all of a row has no effect at all; there is no saturated row."""
    data = given()
    data["q"][..., 1:] = 0
    data["q"][..., 0] = 1
    others = np.random.default_rng(4).uniform(-2, 2, (B, H, K)).astype(np.float32)
    others[..., 3] = -np.inf
    data["k"][..., 0] = others
    data["k"][:, :, 3, 0] = np.log(np.exp(others.astype(np.float64)).sum(2) * (1 - share) / share)
    got = run(patched(block(shown=shown), (3,), PAIRS["table"]), data)["out"]
    kept = softmax(np.broadcast_to(others.astype(np.float64)[:, :, None], (B, H, Q, K)))
    q = TABLE[..., 3:4].astype(np.float64)
    np.testing.assert_allclose(got, (1 - q) * (kept @ data["v"]) + q * VALUES[:, 3:4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("columns", [(), tuple(range(K)), (K,)], ids=["none", "all", "beyond"])
def test_where_nothing_can_move_the_model_stays_as_it_is(columns: tuple[int, ...]) -> None:
    model = block()
    made = patched(model, columns, PAIRS["table"])
    assert operators(made) == operators(model)
    assert run(made, given())["out"].tobytes() == run(model, given())["out"].tobytes()


OTHERS = {
    "a row may be masked": (block(), PAIRS["table"], {"dense": False}),
    "any length": (block(), BenignPair(np.array([0.5], np.float32)), {}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_any_other_site_has_the_general_form(case: str) -> None:
    model, pair, options = OTHERS[case]
    assert "If" in operators(patched(model, (3,), pair, **options))


def test_a_mask_that_the_claim_does_not_know_of_keeps_the_general_form() -> None:
    model = block()
    model.graph.initializer.append(numpy_helper.from_array(np.triu(np.full((Q, K), -1e9, np.float32), 2), "mask"))
    index = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Softmax")
    model.graph.node[index].input[0] = "masked"
    model.graph.node.insert(index, helper.make_node("Add", ["s", "mask"], ["masked"]))
    made = patched(model, (1,), PAIRS["table"])
    a = softmax(scores_of("4d", given()) + np.triu(np.full((Q, K), -1e9), 2))
    mask = np.tile(np.arange(K) == 1, (B, 1))
    want = oracle.joint(a, given()["v"], mask, None, PAIRS["table"])
    assert "If" in operators(made)
    np.testing.assert_allclose(run(made, given())["out"], want, atol=1e-5, rtol=0)


LAYERS, WIDTH = 3, 8
X = {"x": np.random.default_rng(4).standard_normal((5, 6, WIDTH)).astype(np.float32)}
WIDE = BenignPair(np.full((2, 6, 6), 0.05, np.float32), np.ones((2, 6, WIDTH // 2), np.float32))


def stack(columns: tuple[tuple[int, ...] | None, ...], **options: object) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Layers in one group; None: another detector."""
    model = attention_model(LAYERS, WIDTH, 2)
    sites, _ = find_sites(model)
    plans = {
        site.id: SitePlan(Statistic(exempt=()) if one is None else Static(one), WIDE, one is not None)
        for site, one in zip(sites, columns, strict=True)
    }
    plan = PatchPlan(plans, threshold=1e6, groups=(tuple(plans),), **options)  # type: ignore[arg-type]
    made = patch(model, plan, sites)
    assert unpatch(made) == model
    return model, made


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize(
    ("columns", "flagged"),
    [
        (((1,), (2,), (2,)), [{1}, {1, 2}, {1, 2}]),
        (((1,), None, (4,)), [{1}, {1}, {1, 4}]),
        ((None, (1,), (4,)), [set(), {1}, {1, 4}]),
        (((), (1,), ()), [set(), {1}, {1}]),
    ],
    ids=["lists", "list-then-detector", "detector-first", "silent-first"],
)
@pytest.mark.parametrize("on", [True, False])
def test_sites_of_a_group_share_their_columns_and_report_them(
    columns: tuple[tuple[int, ...] | None, ...], flagged: list[set[int]], gating: str, on: bool
) -> None:
    """With telemetry, and without it by the record in the stamp."""
    enabled = {"atpatch_enabled": np.array(on)}
    model, told = stack(columns, gating=gating, telemetry=True)
    _, untold = stack(columns, gating=gating)
    seen = observe(untold)
    assert not seen.reason
    for watched in (told, seen.model):
        onnx.checker.check_model(watched, full_check=True)
        got = run(watched, X, **enabled)
        for site, wanted in zip(seen.sites, flagged, strict=True):
            mask = got[columns_output(site)]
            assert mask.shape == (5, 6) and (mask == np.isin(np.arange(6), [*wanted] if on else [])).all()
        assert (got[FLAGGED] == [bool(wanted) and on for wanted in flagged]).all()
    name = model.graph.output[0].name
    after = [run(each, X, **enabled)[name] for each in (told, untold)]
    assert after[0].tobytes() == after[1].tobytes()
    assert (after[0].tobytes() == run(model, X)[name].tobytes()) is not on


def test_the_reported_columns_follow_the_switch_only_where_there_is_one() -> None:
    _, frozen = stack(((1,), (1,), (1,)), controls="none")
    got = run(observe(frozen).model, X)
    assert got[FLAGGED].all()


def test_scores_of_all_sites_before_any_product() -> None:
    """What sites share lies in front of everything, in whatever order the model computes."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[B,{H},Q,{D}] q, float[B,{H},K,{D}] k, float[B,{H},K,{D}] v) => (float[B,{H},Q,{D}] out) {{
        kt = Transpose<perm = [0,1,3,2]>(k) s = MatMul(q, kt) s2 = Neg(s) p2 = Softmax<axis = -1>(s2)
        p = Softmax<axis = -1>(s) o = MatMul(p, v) o2 = MatMul(p2, v) out = Add(o, o2) }}"""
    data = given()
    got = run(patched(parser.parse_model(text), (3,), PAIRS["table"]), data)["out"]
    mask, scores = np.tile(np.arange(K) == 3, (B, 1)), scores_of("4d", data)
    want = sum(oracle.joint(softmax(x), data["v"], mask, None, PAIRS["table"], reach=False) for x in (scores, -scores))
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", [NESTED, FUNCTIONS], ids=["if-bodies", "functions"])
@pytest.mark.parametrize("controls", ["optional", "required", "none"])
def test_sites_in_inner_bodies(text: str, controls: str) -> None:
    model = parser.parse_model(text)
    made = patched(model, (3,), PAIRS["table"], controls=controls)
    data = given() | ({"go": np.array(True)} if text is NESTED else {})
    on = {"atpatch_enabled": np.array(True), "atpatch_threshold": np.array(0.5, np.float32)}
    on = on if controls == "required" else {}
    got = run(made, {**data, **on})["out"]
    mask = np.tile(np.arange(K) == 3, (B, 1))

    def attended(q: np.ndarray) -> np.ndarray:
        a = softmax(scores_of("4d", {**data, "q": q}))
        return oracle.joint(a, data["v"], mask, None, PAIRS["table"], reach=False)

    once = attended(data["q"])
    want = once if text is NESTED else attended(np.maximum(once, 0))
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)
    if controls != "none":
        off = run(made, {**data, **on, "atpatch_enabled": np.array(False)})["out"]
        assert off.tobytes() == run(model, data)["out"].tobytes()


@pytest.mark.parametrize("gating", ["if", "none"])
def test_a_site_of_its_own_next_to_two_passes(gating: str) -> None:
    """It is patched in both runs."""
    model = attention_model(LAYERS, WIDTH, 2)
    sites, _ = find_sites(model)
    own, *others = (site.id for site in sites)
    plans = {own: SitePlan(Static((1,)), WIDE, True)} | {name: SitePlan(Statistic(exempt=()), WIDE) for name in others}
    both = patch(model, PatchPlan(plans, threshold=0.5, passes="two", groups=(tuple(others),), gating=gating), sites)  # type: ignore[arg-type]
    alone = patch(model, PatchPlan({own: plans[own]}), sites)
    onnx.checker.check_model(both, full_check=True)
    assert unpatch(both) == model
    name = model.graph.output[0].name
    high = {"atpatch_threshold": np.array(1e6, np.float32)}
    np.testing.assert_allclose(run(both, X, **high)[name], run(alone, X)[name], atol=1e-6)
    assert not np.allclose(run(both, X)[name], run(alone, X)[name], atol=1e-4)
    off = run(both, X, atpatch_enabled=np.array(False))[name]
    np.testing.assert_allclose(off, run(model, X)[name], atol=1e-6)


def test_a_quantized_site_keeps_its_pairs() -> None:
    model = block()
    quantize = [numpy_helper.from_array(np.float32(1 / 255), "scale"), numpy_helper.from_array(np.uint8(0), "zero")]
    model.graph.initializer.extend(quantize)
    index = next(index for index, node in enumerate(model.graph.node) if node.output[0] == "out")
    model.graph.node[index].input[0] = "pd"
    model.graph.node.insert(index, helper.make_node("DequantizeLinear", ["pq", "scale", "zero"], ["pd"]))
    model.graph.node.insert(index, helper.make_node("QuantizeLinear", ["p", "scale", "zero"], ["pq"]))
    made = patched(model, (3,), PAIRS["table"])
    assert "If" in operators(made)
    assert find_sites(model)[0][0].quantizer_dtype == TensorProto.UINT8
