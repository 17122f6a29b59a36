"""`PatchPlan.margin`: only samples whose first answer is sure are flagged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch
from rewriters.errors import AtpatchError
from rewriters.plan import OneClass, PatchPlan, SitePlan

from ..graphs import attention_block
from ..running import run_all

BAR = 1.5


def classifier(dtype: int = onnx.TensorProto.FLOAT, classes: int | None = None) -> tuple[onnx.ModelProto, Any]:
    """The block of `attention_block` with the sum of each head's first query row as class scores."""
    block = attention_block()
    nodes = [
        onnx.helper.make_node("Gather", ["out", "first"], ["row"], axis=2),
        onnx.helper.make_node("ReduceSum", ["row", "last"], ["sum"], keepdims=0),
        onnx.helper.make_node("Cast", ["sum"], ["logits"], to=dtype),
    ]
    block.model.graph.node.extend(nodes)
    for name, value in (("first", np.array(0)), ("last", np.array([2]))):
        block.model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    del block.model.graph.output[:]
    axis = "C" if classes is None else classes
    block.model.graph.output.append(onnx.helper.make_tensor_value_info("logits", dtype, ["B", axis]))
    return block.model, block.site


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    made = {name: rng.normal(size=(32, 2, 6 if name == "q" else 7, 4)).astype(np.float32) for name in "qkv"}
    return {**made, "bias": np.zeros((32, 1, 6, 7), np.float32)}


def plan(site: Any, **options: Any) -> PatchPlan:
    """About half of the samples have a column above the threshold."""
    detector = OneClass(np.zeros(4, np.float32), np.ones((4, 1), np.float32), False, 0.0)
    made = PatchPlan({site.id: SitePlan(detector)}, passes="two", groups=((site.id,),), joint="sum", telemetry=True)
    return replace(made, **{"threshold": 3.7, **options})


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16], ids=["float", "half"])
def test_a_sample_is_flagged_where_its_first_answer_is_sure(
    dtype: int, gating: str, feeds: dict[str, np.ndarray]
) -> None:
    model, site = classifier(dtype)
    before = np.sort(run_all(model, feeds)["logits"].astype(np.float64), 1)
    sure = before[:, -1] - before[:, -2] > BAR
    without = run_all(patch(model, plan(site, gating=gating), [site]), feeds)
    found = run_all(patch(model, plan(site, gating=gating, margin=BAR), [site]), feeds)
    flagged = without["atpatch_flagged"].any(1)
    assert (flagged & sure).sum() > 4 and (flagged & ~sure).sum() > 4 and (sure & ~flagged).any()
    np.testing.assert_array_equal(found["atpatch_flagged"].any(1), flagged & sure)
    columns = f"atpatch_columns/{site.id}"
    np.testing.assert_array_equal(found[columns], without[columns] & sure[:, None])
    acted = (flagged & sure)[:, None]
    unpatched = run_all(model, feeds)["logits"]
    np.testing.assert_array_equal(found["logits"], np.where(acted, without["logits"], unpatched))
    assert (without["logits"] != unpatched)[flagged].any()


def test_no_margin_leaves_the_graph_as_it_was() -> None:
    model, site = classifier()
    plain, zero = patch(model, plan(site), [site]), patch(model, plan(site, margin=0.0), [site])
    assert plain.SerializeToString() == zero.SerializeToString()
    sure = patch(model, plan(site, margin=BAR), [site])
    assert len(sure.graph.node) - len(plain.graph.node) == 6


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"margin": -1.0}, "ATP024"),
        ({"margin": float("nan")}, "ATP024"),
        ({"margin": BAR, "joint": "any"}, "ATP024"),
        ({"margin": BAR, "mend": "heal"}, "ATP024"),
    ],
    ids=["negative", "nan", "any", "heal"],
)
def test_plans_that_no_graph_can_hold(options: dict[str, Any], code: str) -> None:
    model, site = classifier()
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan(site, **options), [site])
    assert caught.value.code == code


@pytest.mark.parametrize("classes", [1, None])
def test_a_margin_needs_two_classes(classes: int | None) -> None:
    if classes == 1:
        model, site = classifier(classes=1)
    else:
        block = attention_block()
        model, site = block.model, block.site
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan(site, margin=BAR), [site])
    assert caught.value.code == "ATP023" and "margin" in str(caught.value)


def test_factors_by_length_that_no_graph_can_hold() -> None:
    model, site = classifier()
    for known in ([(5, 1.0), (4, 1.0)], [(4, 0.0)], [(4.5, 1.0)], [(0, 1.0)], [(4, np.inf)], [(1 << 15, 1.0)]):
        detector = OneClass(np.zeros(4, np.float32), np.ones((4, 1), np.float32), False, 0.0)
        wrong = SitePlan(replace(detector, by_length=np.float32(known)))
        with pytest.raises(AtpatchError) as caught:
            patch(model, replace(plan(site), sites={site.id: wrong}), [site])
        assert caught.value.code == "ATP024"
