"""Whatever form a patch has, a copy of it tells the flags that its telemetry would;
a graph that cannot tell says why.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from rewriters.editing.observe import observe
from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.names import FLAGGED, columns_output, is_inserted
from rewriters.plan import PatchPlan, SitePlan, Static, Statistic
from tests.tiny import attention_model

from ..graphs import run
from ..subgraphs.random_detectors import random_profile
from .nested import FUNCTIONS, NESTED, plan_for

LAYERS, WIDTH, HEADS = 3, 8, 2
X = {"x": np.random.default_rng(4).standard_normal((12, 6, WIDTH)).astype(np.float32)}


def plan(**options: object) -> tuple[onnx.ModelProto, PatchPlan]:
    model = attention_model(LAYERS, WIDTH, HEADS)
    sites, _ = find_sites(model)
    plans = {site.id: SitePlan(Statistic(exempt=())) for site in sites}
    return model, replace(PatchPlan(plans, threshold=1.2, groups=(tuple(plans),)), **options)  # type: ignore[arg-type]


def patched(model: onnx.ModelProto, made: PatchPlan) -> onnx.ModelProto:
    return patch(model, made, find_sites(model)[0])


FORMS = {
    f"{passes}{', sum' if joint == 'sum' else ''}, {gating}{'' if grouped else ', alone'}, controls {controls}"
    f", {companion}": {
        "passes": passes,
        "joint": joint,
        "gating": gating,
        "controls": controls,
        "companion": companion,
        **({} if grouped else {"groups": ()}),
    }
    for passes, joint, gating, grouped in (
        ("one", "any", "if", True),
        ("one", "any", "if", False),
        ("one", "any", "none", True),
        ("one", "any", "none", False),
        ("two", "any", "if", True),
        ("two", "sum", "if", True),
        ("two", "any", "none", True),
        ("two", "sum", "none", True),
    )
    for controls in ("optional", "none")
    for companion in (1.0, 0.5)
}


@pytest.mark.parametrize("form", FORMS)
def test_flags_are_those_of_telemetry(form: str) -> None:
    model, made = plan(**FORMS[form])
    told, untold = (patched(model, replace(made, telemetry=telemetry)) for telemetry in (True, False))
    expected, seen = run(told, X), observe(untold)
    assert seen.sites == tuple(made.sites) and seen.reason == ""
    assert expected[FLAGGED].any() and not expected[FLAGGED].all(1).all()
    got = run(seen.model, X)
    for name in (FLAGGED, *map(columns_output, seen.sites)):
        np.testing.assert_array_equal(got[name], expected[name])
    assert got["y"].tobytes() == run(untold, X)["y"].tobytes()
    assert observe(told).model is told and observe(told).sites == seen.sites
    assert unpatch(untold) == model


def test_a_joint_site_without_a_detector_tells_what_its_group_decides() -> None:
    model, made = plan(passes="two", joint="sum")
    first, *others = made.sites
    made = replace(made, sites={**made.sites, first: SitePlan(Static())})
    seen = observe(patched(model, made))
    got = run(seen.model, X)
    assert seen.sites == (first, *others)
    assert got[columns_output(first)].any()
    np.testing.assert_array_equal(got[columns_output(first)], got[columns_output(others[0])])


def test_a_scalar_among_the_inputs_is_not_taken_for_the_batch() -> None:
    model, made = plan()
    model.graph.input.insert(0, onnx.helper.make_tensor_value_info("scalar", onnx.TensorProto.FLOAT, []))
    got = run(observe(patched(model, made)).model, {**X, "scalar": np.array(0, np.float32)})
    assert got[FLAGGED].shape == (len(X["x"]), LAYERS)


@pytest.mark.parametrize("text", [NESTED, FUNCTIONS], ids=["if-bodies", "functions"])
def test_sites_in_inner_bodies_are_not_reported(text: str) -> None:
    firing = plan_for(onnx.parser.parse_model(text), SitePlan(Static((3,))))
    seen = observe(firing)
    assert seen.model is firing and seen.sites == () and "inside a subgraph or a function" in seen.reason


def without_record(model: onnx.ModelProto) -> onnx.ModelProto:
    """As versions before the record wrote it."""
    model.metadata_props.remove(next(entry for entry in model.metadata_props if entry.key == "atpatch.observe"))
    return model


def test_an_older_file_tells_where_each_site_has_a_mask_of_the_name_that_was_used() -> None:
    model, made = plan()
    now, older = observe(patched(model, made)), observe(without_record(patched(model, made)))
    assert older.sites == now.sites
    np.testing.assert_array_equal(run(older.model, X)[FLAGGED], run(now.model, X)[FLAGGED])


@pytest.mark.parametrize("options", [{"gating": "none"}, {"controls": "none"}, {"passes": "two", "joint": "sum"}])
def test_an_older_file_does_not_tell_else(options: dict[str, object]) -> None:
    model, made = plan(**options)
    older = without_record(patched(model, made))
    assert observe(older).model is older and "an earlier version" in observe(older).reason


def damaged(text: str) -> onnx.ModelProto:
    model = patched(*plan())
    next(entry for entry in model.metadata_props if entry.key == "atpatch.observe").value = text
    return model


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "1", '{"masks": []}', '{"masks": 3}', "[" * 100_000])
def test_a_damaged_record_does_not_tell(text: str) -> None:
    assert "damaged" in observe(damaged(text)).reason


def test_a_mask_that_a_tool_renamed_does_not_tell() -> None:
    prefixed = onnx.compose.add_prefix(patched(*plan(gating="none", controls="none")), "other_")
    assert observe(prefixed).sites == () and "renamed or removed" in observe(prefixed).reason


def test_a_patch_without_its_stamp_and_a_plain_model_do_not_tell() -> None:
    model, made = plan()
    bare = patched(model, made)
    del bare.metadata_props[:]
    assert any(is_inserted(node.name) for node in bare.graph.node) and "stamp is gone" in observe(bare).reason
    assert observe(model).model is model and observe(model).reason == "it is not patched"


def test_profiles_that_add_up_their_logits_are_reported() -> None:
    model, made = plan(passes="two", joint="sum", threshold=0.5)
    profile = SitePlan(random_profile(HEADS, np.random.default_rng(0)))
    made = replace(made, sites=dict.fromkeys(made.sites, profile))
    told = run(patched(model, replace(made, telemetry=True)), X)
    got = run(observe(patched(model, made)).model, X)
    np.testing.assert_array_equal(got[FLAGGED], told[FLAGGED])
