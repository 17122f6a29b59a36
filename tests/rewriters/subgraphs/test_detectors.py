"""Each detector kind, as emitted, against its numpy oracle."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from rewriters.editing.patcher import patch
from rewriters.errors import AtpatchError
from rewriters.plan import (
    BenignPair,
    Cnn,
    Conv,
    Dense,
    Detector,
    OneClass,
    OnnxGraph,
    PatchPlan,
    SitePlan,
    Static,
    Statistic,
)
from tests import oracle

from ..graphs import H, K, Q, attention_block, feeds, run
from .random_detectors import random_profile, separating


def flagged(
    detector: Detector, data: dict[str, np.ndarray], threshold: float, *, layout: str = "4d", fixed: bool = False
) -> dict[str, np.ndarray]:
    block = attention_block(layout=layout)
    benign = BenignPair(np.full((1, 1, K), 0.1, np.float32)) if fixed else BenignPair()
    plan = PatchPlan({block.site.id: SitePlan(detector, benign)}, threshold=threshold, telemetry=True)
    got = run(patch(block.model, plan, [block.site]), data)
    return {"p": got["p"], "columns": got[f"atpatch_columns/{block.site.id}"], "flagged": got["atpatch_flagged"]}


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("layout", ["4d", "merged", "3d"])
def test_profile(layout: str, padded: bool, every: int) -> None:
    data = feeds(layout)
    if padded:
        data["bias"][0, ..., 5:] = -np.inf
    detector = random_profile(1 if layout == "3d" else H, np.random.default_rng(3), every=every)
    a = run(attention_block(layout=layout).model, data)["p"]
    a = a.reshape(-1, H, *a.shape[1:]) if layout == "merged" else a[:, None] if layout == "3d" else a
    valid = (a > 0).any((1, 2))
    scores = np.where(valid, oracle.profile(a, valid, detector, self_attention=False), -np.inf)
    threshold = separating(scores)
    np.testing.assert_array_equal(flagged(detector, data, threshold, layout=layout)["columns"], scores > threshold)


def test_rows_that_are_read_are_no_fewer_than_all_by_a_number_from_1_up() -> None:
    with pytest.raises(AtpatchError) as caught:
        flagged(random_profile(H, np.random.default_rng(3), every=0), feeds(), 0.5)
    assert caught.value.code == "ATP024"


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("exempt", [(), (0, -1)], ids=str)
@pytest.mark.parametrize("squared", [False, True], ids=["excess", "distance"])
@pytest.mark.parametrize("rank", [0, 2, 5])
@pytest.mark.parametrize("by_place", [False, True], ids=["anywhere", "by place"])
def test_oneclass(by_place: bool, rank: int, squared: bool, exempt: tuple[int, ...], padded: bool) -> None:
    check_oneclass(by_place, rank, squared, exempt, padded)


@pytest.mark.parametrize("by_place", [False, True], ids=["anywhere", "by place"])
def test_oneclass_of_some_rows(by_place: bool) -> None:
    check_oneclass(by_place, 0, True, (), True, every=3)


def check_oneclass(
    by_place: bool, rank: int, squared: bool, exempt: tuple[int, ...], padded: bool, every: int = 1
) -> None:
    data, rng, width = feeds(), np.random.default_rng(11), 2 * H
    if padded:
        data["bias"][0, ..., 5:] = -np.inf
    place = (K,) if by_place else ()
    mean = rng.random((*place, width)).astype(np.float32)
    weight = rng.normal(size=(*place, width, 3)).astype(np.float32)
    detector = OneClass(mean, weight, squared, offset=-2.0 if rank else 0.25, rank=rank, exempt=exempt, every=every)
    a = run(attention_block().model, data)["p"]
    valid = (a > 0).any((1, 2))
    scores = np.where(valid, oracle.oneclass(a, valid, detector, self_attention=False), -np.inf)
    threshold = separating(scores)
    np.testing.assert_array_equal(flagged(detector, data, threshold)["columns"], scores > threshold)


@pytest.mark.parametrize(
    "hidden", [slice(0, 0), slice(5, None), slice(0, 2)], ids=["full", "right-padded", "left-padded"]
)
@pytest.mark.parametrize("exempt", [(), (0,), (0, -1)], ids=str)
@pytest.mark.parametrize("layout", ["4d", "2d"])
def test_statistic(hidden: slice, exempt: tuple[int, ...], layout: str) -> None:
    data = feeds(layout)
    data["bias"][..., hidden] = -np.inf
    detector = Statistic(exempt)
    a = run(attention_block(layout=layout).model, data)["p"]
    a = a if layout == "4d" else a[None, None]
    valid = (a > 0).any((1, 2))
    scores = oracle.statistic(a, valid, detector, self_attention=False)
    threshold = separating(scores, 0.6)
    np.testing.assert_array_equal(flagged(detector, data, threshold, layout=layout)["columns"], scores > threshold)


def test_statistic_under_a_causal_mask_takes_uniform_attention_for_uniform() -> None:
    data = feeds(queries=K)
    data["q"] *= 0
    data["bias"] += np.triu(np.full((K, K), -np.inf, np.float32), 1)
    assert not flagged(Statistic(exempt=()), data, 0.01)["columns"].any()


def test_cnn() -> None:
    rng = np.random.default_rng(5)
    convolutions = (
        Conv(rng.normal(size=(4, 1, 3, 3)).astype(np.float32), rng.normal(size=4).astype(np.float32)),
        Conv(rng.normal(size=(2, 4, 3, 3)).astype(np.float32), rng.normal(size=2).astype(np.float32), stride=2),
    )
    width = 2 * ((Q + 1) // 2) * ((K + 1) // 2)
    layers = (Dense(rng.normal(size=(width, K)).astype(np.float32), rng.normal(size=K).astype(np.float32)),)
    data = feeds()
    a = run(attention_block().model, data)["p"]
    scores = oracle.cnn(a, Cnn(convolutions, layers))
    threshold = separating(scores, 0.5)
    np.testing.assert_array_equal(
        flagged(Cnn(convolutions, layers), data, threshold, fixed=True)["columns"], scores > threshold
    )


USER = """
<ir_version: 8, opset_import: ["" : {opset}]>
score (float[b, h, q, k] map) => (float[b, k] score)
<float[1] half = {{0.5}}>
{{
    peak = ReduceMax <axes = [1, 2], keepdims = 0> (map)
    score = Mul (peak, half)
}}
"""


@pytest.mark.parametrize("opset", [13, 17])
def test_a_users_graph_is_spliced_in(opset: int) -> None:
    model = parser.parse_model(USER.format(opset=opset))
    data = feeds()
    got = flagged(OnnxGraph(model.SerializeToString()), data, 0.4)
    np.testing.assert_array_equal(got["columns"], got["p"].max((1, 2)) * 0.5 > 0.4)


def bad_detectors() -> dict[str, bytes]:
    info = helper.make_tensor_value_info
    custom = helper.make_graph(
        [helper.make_node("Mystery", ["x"], ["y"], domain="my.domain")],
        "g",
        [info("x", TensorProto.FLOAT, None)],
        [info("y", TensorProto.FLOAT, None)],
    )
    two = helper.make_graph(
        [helper.make_node("Add", ["x", "z"], ["y"])],
        "g",
        [info(n, TensorProto.FLOAT, None) for n in "xz"],
        [info("y", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    return {
        "not-onnx": b"not a model",
        "custom-operator": helper.make_model(custom, opset_imports=imports).SerializeToString(),
        "two-inputs": helper.make_model(two, opset_imports=imports[:1]).SerializeToString(),
    }


@pytest.mark.parametrize("name", bad_detectors())
def test_a_detector_graph_that_cannot_be_spliced_is_refused(name: str) -> None:
    with pytest.raises(AtpatchError) as caught:
        flagged(OnnxGraph(bad_detectors()[name]), feeds(), 0.5)
    assert caught.value.code == "ATP017"


def test_static_flags_exactly_its_columns() -> None:
    got = flagged(Static((2, 5)), feeds(), 0.99)["columns"]
    assert got[:, [2, 5]].all() and got.sum() == 2 * len(got)


def test_scores_that_are_not_numbers_flag_nothing() -> None:
    model = parser.parse_model(USER.format(opset=17).replace("{0.5}", "{0.0}"))
    model.graph.node[1].op_type = "Div"  # x / 0 = inf; then inf - inf = nan
    model.graph.node.append(helper.make_node("Sub", ["score", "score"], ["none"]))
    model.graph.output[0].name = "none"
    onnx.checker.check_model(model)
    assert not flagged(OnnxGraph(model.SerializeToString()), feeds(), 0.5)["flagged"].any()


@pytest.mark.parametrize("passes", ["one", "two"])
@pytest.mark.parametrize("joint", ["any", "sum"])
def test_companions_are_flagged_in_flagged_samples_only(passes: str, joint: str) -> None:
    if (passes, joint) == ("one", "sum"):
        pytest.skip("sums need two passes")
    block, data, detector = attention_block(), feeds(), Statistic(exempt=())
    scores = oracle.statistic(run(block.model, data)["p"], None, detector, self_attention=False)
    peaks = np.sort(scores.max(1))
    threshold = float(peaks[-2:].mean())  # one sample is flagged
    hit = scores.max(1) > threshold
    factor = float(np.sort(scores[hit].ravel())[-4:-2].mean() / threshold)  # the three loudest columns
    assert hit.sum() == 1 and 0 < factor < 1 and (scores[~hit] > threshold * factor).any()
    groups = ((block.site.id,),) if passes == "two" else ()
    plan = PatchPlan(
        {block.site.id: SitePlan(detector)},
        threshold,
        telemetry=True,
        passes=passes,
        groups=groups,
        joint=joint,
        companion=factor,
    )
    got = run(patch(block.model, plan, [block.site]), data)
    columns = got[f"atpatch_columns/{block.site.id}"]
    if passes == "one" or joint == "sum":
        np.testing.assert_array_equal(columns, (scores > threshold * factor) & hit[:, None])
    silent = PatchPlan(
        {block.site.id: SitePlan(detector)},
        float(peaks[-1]) + 1,
        telemetry=True,
        passes=passes,
        groups=groups,
        companion=factor,
    )
    assert not run(patch(block.model, silent, [block.site]), data)["atpatch_flagged"].any()
