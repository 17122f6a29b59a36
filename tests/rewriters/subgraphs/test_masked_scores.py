"""Small maps of a fixed size are made again without their flagged columns."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import walk_bodies
from rewriters.names import columns_output
from rewriters.plan import BenignPair, Detector, OneClass, PatchPlan, SitePlan, Statistic
from tests import oracle
from tests.tiny import attention_model

from ..graphs import D, H, run
from ..running import with_outputs
from .fixed_scores import scored_by
from .products import block, operators, scores_of, softmax
from .random_detectors import random_profile

B, Q, K = 4, 6, 7
RNG = np.random.default_rng(8)
TABLE = RNG.dirichlet(np.ones(K), (H, Q)).astype(np.float32)
VALUES = RNG.normal(size=(H, K, D)).astype(np.float32)
PAIRS = {
    "table": BenignPair(TABLE, VALUES),
    "one-row": BenignPair(TABLE[:, :1], VALUES),
    "one-head": BenignPair(TABLE[:1], VALUES[:1, :1]),
    "more-than-the-row": BenignPair(3 * TABLE, VALUES),
    "own": BenignPair(TABLE, own_values=True),
    "too-much-of-its-own": BenignPair(3 * TABLE, own_values=True),
}
MASK = np.array([[0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]], bool)
DATA = {
    name: np.random.default_rng(index).normal(size=(B, H, rows, D)).astype(np.float32)
    for index, (name, rows) in enumerate(zip("qkv", (Q, K, K), strict=True))
}


def patched(
    model: onnx.ModelProto, pair: BenignPair, mask: np.ndarray = MASK, dense: bool = True, **options: object
) -> onnx.ModelProto:
    sites, _ = find_sites(model)
    plan = SitePlan(scored_by(np.where(mask, 0.9, 0.1).tolist()), pair, dense)
    plans = PatchPlan({site.id: plan for site in sites}, telemetry=True, **options)  # type: ignore[arg-type]
    made = patch(model, plans, sites)
    onnx.checker.check_model(made, full_check=True)
    assert unpatch(made) == model
    return made


@pytest.mark.parametrize("controls", ["optional", "none"])
@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("name", [name for name in PAIRS if name != "one-row"])
def test_flagged_columns_are_redistributed_and_other_samples_keep_every_bit(
    name: str, opset: int, gating: str, controls: str
) -> None:
    model = block(opset=opset)
    made = patched(model, PAIRS[name], gating=gating, controls=controls)
    assert Counter(operators(made))["Softmax"] == 2
    got, before = run(made, DATA), run(model, DATA)["out"]
    (site,), _ = find_sites(model)
    assert (got[columns_output(site.id)] == MASK).all()
    want = oracle.joint(softmax(scores_of("4d", DATA)), DATA["v"], MASK, None, PAIRS[name], reach=False)
    np.testing.assert_allclose(got["out"], want, atol=1e-5, rtol=0)
    for sample in (1, 2):  # nothing flagged, everything flagged
        assert got["out"][sample].tobytes() == before[sample].tobytes()
    if controls != "none":
        off = run(made, {**DATA, "atpatch_enabled": np.array(False)})
        assert off["out"].tobytes() == before.tobytes() and not off[columns_output(site.id)].any()


def test_a_table_of_one_row_serves_where_rows_are_columns() -> None:
    """Else the number of rows is not known, and the general form is taken."""
    assert Counter(operators(patched(block(), PAIRS["one-row"])))["Softmax"] == 1
    model = attention_model(1, 2 * D, 2)
    (site,), _ = find_sites(model)
    pair = BenignPair(PAIRS["one-row"].attention[:, :, :6], VALUES[:, :6])
    made = patched(model, pair, MASK[:, :6])
    assert site.self_attention and Counter(operators(made))["Softmax"] == 2
    x = np.random.default_rng(1).normal(size=(B, 6, 2 * D)).astype(np.float32)
    got = run(with_outputs(made, [site.probabilities, site.values, site.product]), {"x": x})
    want = oracle.joint(got[site.probabilities], got[site.values], MASK[:, :6], None, pair, reach=False)
    np.testing.assert_allclose(got[site.product], want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [1e-2, 4e-6, 3e-8, 1e-30], ids=str)
def test_however_much_a_flagged_column_had_the_others_keep_their_proportions(share: float) -> None:
    data = {name: array.copy() for name, array in DATA.items()}
    data["q"][..., 1:], data["q"][..., 0] = 0, 1
    others = np.random.default_rng(4).uniform(-2, 2, (B, H, K)).astype(np.float32)
    others[..., 3] = -np.inf
    data["k"][..., 0] = others
    data["k"][:, :, 3, 0] = np.log(np.exp(others.astype(np.float64)).sum(2) * (1 - share) / share)
    mask = np.tile(np.arange(K) == 3, (B, 1))
    got = run(patched(block(), PAIRS["table"], mask), data)["out"]
    kept = softmax(np.broadcast_to(others.astype(np.float64)[:, :, None], (B, H, Q, K)))
    q = TABLE[..., 3:4].astype(np.float64)
    np.testing.assert_allclose(got, (1 - q) * (kept @ data["v"]) + q * VALUES[:, 3:4], atol=1e-5, rtol=0)


def test_a_map_that_is_cast_to_its_own_type() -> None:
    """As TorchScript exports write it."""
    model = block()
    index = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Softmax")
    model.graph.node[index].output[0] = "p0"
    for step, (source, target) in enumerate((("p0", "p1"), ("p1", "p")), 1):
        model.graph.node.insert(index + step, helper.make_node("Cast", [source], [target], to=1))
    made = patched(model, PAIRS["table"])
    assert Counter(operators(made))["Softmax"] == 2
    want = oracle.joint(softmax(scores_of("4d", DATA)), DATA["v"], MASK, None, PAIRS["table"], reach=False)
    np.testing.assert_allclose(run(made, DATA)["out"], want, atol=1e-5, rtol=0)


def test_fourteen_operators_where_something_is_flagged() -> None:
    made = patched(block(), PAIRS["table"], controls="none")
    (branch,) = (body for where, body in walk_bodies(made) if where and where[-1][1] == "then_branch")
    assert len(branch.node) == 14


LARGE = BenignPair(np.full((1, 65, 64), 0.01, np.float32), np.zeros((1, 64, D), np.float32))
OTHERS = {
    "a row may be masked": (PAIRS["table"], {"dense": False}),
    "no benign values": (BenignPair(TABLE), {}),
    "any length": (BenignPair(np.array([0.5], np.float32), VALUES[:, :1]), {}),
    "a large map": (LARGE, {}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_any_other_site_has_the_general_form(case: str) -> None:
    pair, options = OTHERS[case]
    assert Counter(operators(patched(block(), pair, **options)))["Softmax"] == 1  # type: ignore[arg-type]


LAYERS, TOKENS, WIDTH = 3, 6, 8
X = {"x": np.random.default_rng(5).normal(size=(12, TOKENS, WIDTH)).astype(np.float32)}
WIDE = BenignPair(
    RNG.dirichlet(np.ones(TOKENS), (2, TOKENS)).astype(np.float32),
    RNG.normal(size=(2, TOKENS, WIDTH // 2)).astype(np.float32),
)
DETECTORS: dict[str, tuple[Detector, float]] = {
    "statistic": (Statistic(exempt=()), 1.2),
    "statistic with sinks": (Statistic(exempt=(0, -1)), 0.8),
    "profile": (random_profile(2, np.random.default_rng(3)), 0.98),
    "oneclass": (
        OneClass(
            RNG.uniform(0, 1, (TOKENS, 4)).astype(np.float32),
            RNG.normal(size=(TOKENS, 4, 4)).astype(np.float32),
            True,
            0.1,
            rank=2,
            exempt=(0, -1),
        ),
        4.0,
    ),
}


def even_model() -> onnx.ModelProto:
    """Of values that stay near 1, so that no row is saturated."""
    model = attention_model(LAYERS, WIDTH, 2)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("layers."):
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(WIDTH**0.5), tensor.name)
            )
    return model


def stacked(kind: str, dense: bool, **options: object) -> onnx.ModelProto:
    model = even_model()
    sites, _ = find_sites(model)
    detector, threshold = DETECTORS[kind]
    plans = {site.id: SitePlan(detector, WIDE, dense) for site in sites}
    made = patch(
        model,
        PatchPlan(plans, threshold=threshold, groups=(tuple(plans),), telemetry=True, **options),  # type: ignore[arg-type]
        sites,
    )
    onnx.checker.check_model(made, full_check=True)
    assert unpatch(made) == model
    return made


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize(("passes", "joint"), [("one", "any"), ("two", "any"), ("two", "sum")])
@pytest.mark.parametrize("companion", [1.0, 0.6])
@pytest.mark.parametrize("kind", DETECTORS)
def test_it_does_what_the_general_form_does(kind: str, companion: float, passes: str, joint: str, gating: str) -> None:
    """With every detector, in one run and in two."""
    options = {"passes": passes, "joint": joint, "gating": gating, "companion": companion}
    lean, general = (stacked(kind, dense, **options) for dense in (True, False))
    assert len(operators(lean)) < 0.75 * len(operators(general))
    for on in (True, False):
        got, want = (run(made, X, atpatch_enabled=np.array(on)) for made in (lean, general))
        for name, array in want.items():
            if array.dtype == bool:
                np.testing.assert_array_equal(got[name], array)
            else:
                np.testing.assert_allclose(got[name], array, atol=2e-5, rtol=0)
        flagged = want["atpatch_flagged"].any(1)
        assert flagged.any() == on
