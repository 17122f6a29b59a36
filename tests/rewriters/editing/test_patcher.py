"""Patching and its undoing: controls, telemetry, mixed batches, subgraphs, functions, stamp."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from rewriters.editing.patcher import is_patched, patch, stamp, unpatch
from rewriters.errors import AtpatchError, PlanError
from rewriters.plan import BenignPair, ControlInputs, PatchPlan, Profile, SitePlan, Static, Statistic

from ..graphs import B, D, H, K, Q, attention_block, feeds, run, session
from ..subgraphs.random_detectors import random_profile
from .nested import FUNCTIONS, NESTED, plan_for

FIRING = SitePlan(Static((3,)))


def test_enabled_switches_the_patch_off_in_a_running_session() -> None:
    block, data = attention_block(), feeds()
    live = session(plan_for(block.model, FIRING))
    original = run(block.model, data)["out"]
    assert not np.array_equal(live.run(["out"], data)[0], original)
    assert live.run(["out"], {**data, "atpatch_enabled": np.array(False)})[0].tobytes() == original.tobytes()


def test_threshold_moves_per_request() -> None:
    block, data = attention_block(), feeds()
    live = session(plan_for(block.model, SitePlan(Statistic(exempt=())), threshold=1e9, telemetry=True))
    counts = [
        live.run([f"atpatch_columns/{block.site.id}"], {**data, "atpatch_threshold": np.array(t, np.float32)})[0].sum()
        for t in (-1e9, 0.0, 1.0, 1e9)
    ]
    assert (
        counts == sorted(counts, reverse=True) and counts[0] == B * K and counts[-1] == 0 and counts[1] > counts[2] > 0
    )


def test_without_controls_there_is_no_input() -> None:
    block, data = attention_block(), feeds()
    patched = plan_for(block.model, FIRING, controls="none")
    assert [value.name for value in patched.graph.input] == [value.name for value in block.model.graph.input]
    assert np.array_equal(run(patched, data)["out"], run(plan_for(block.model, FIRING), data)["out"])
    assert unpatch(patched) == block.model


def test_what_happens_to_a_sample_does_not_depend_on_its_batch() -> None:
    """Only some samples are flagged: the others are bit-identical to the original, the flagged ones get what they get
    alone.
    """
    block, data = attention_block(), feeds()
    detector = SitePlan(Statistic(exempt=()), BenignPair(np.zeros(1, np.float32)))
    patched = plan_for(block.model, detector, threshold=2.0, telemetry=True)
    got, before = run(patched, data), run(block.model, data)
    hit = got["atpatch_flagged"][:, 0]
    assert 0 < hit.sum() < len(hit)
    for sample in range(len(hit)):
        if hit[sample]:
            assert not np.array_equal(got["out"][sample], before["out"][sample])
        else:
            assert got["out"][sample].tobytes() == before["out"][sample].tobytes()
        alone = run(patched, {name: array[sample : sample + 1] for name, array in data.items()})
        assert alone["atpatch_flagged"][0, 0] == hit[sample]
        # onnxruntime sums in another order for another shape, so equality ends at rounding.
        np.testing.assert_allclose(alone["out"][0], got["out"][sample], rtol=1e-5, atol=1e-6)


def test_patches_do_not_stack() -> None:
    patched = plan_for(attention_block().model, FIRING)
    with pytest.raises(AtpatchError) as caught:
        plan_for(patched, FIRING)
    assert caught.value.code == "ATP012"


def test_stamp_tells_what_was_done() -> None:
    patched = plan_for(attention_block().model, FIRING, digest="abc")
    facts = stamp(patched)
    assert is_patched(patched)
    assert (
        facts["detector"] == "static"
        and facts["gating"] == "if"
        and facts["hotfix"] == "abc"
        and len(facts["original"]) == 64
    )


def test_unpatch_refuses_an_original_and_a_changed_patch() -> None:
    block = attention_block()
    with pytest.raises(AtpatchError) as caught:
        unpatch(block.model)
    assert caught.value.code == "ATP013"
    changed = plan_for(block.model, FIRING)
    changed.graph.node[0].name = "renamed"
    with pytest.raises(AtpatchError) as caught:
        unpatch(changed)
    assert caught.value.code == "ATP014"
    damaged = plan_for(block.model, FIRING)
    next(entry for entry in damaged.metadata_props if entry.key == "atpatch.undo").value = "AAAA"
    with pytest.raises(AtpatchError) as caught:
        unpatch(damaged)
    assert caught.value.code == "ATP014"


@pytest.mark.parametrize(
    ("site_plan", "code"),
    [
        (SitePlan(Static(), BenignPair(np.ones(H + 1, np.float32))), "ATP015"),
        (SitePlan(Static(), BenignPair(np.ones((H, K), np.float32))), "ATP024"),
        (SitePlan(Static(), BenignPair(np.array([np.nan], np.float32))), "ATP024"),
        (SitePlan(Static(), BenignPair(values=np.ones((H, 1, D + 1), np.float32))), "ATP015"),
        (SitePlan(random_profile(H + 1, np.random.default_rng(0))), "ATP015"),
    ],
    ids=["heads", "axes", "nan", "width", "features"],
)
def test_a_plan_that_does_not_fit_is_refused(site_plan: SitePlan, code: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_for(attention_block().model, site_plan)
    assert caught.value.code == code


def test_an_old_opset_is_refused() -> None:
    block = attention_block(opset=12)
    block.model.opset_import[0].version = 9
    with pytest.raises(AtpatchError) as caught:
        patch(block.model, PatchPlan({block.site.id: FIRING}), [block.site])
    assert caught.value.code == "ATP006"


@pytest.mark.parametrize("controls", ["optional", "none"])
def test_below_ir_version_4_there_is_no_optional_control(controls: ControlInputs) -> None:
    """Every initializer has to be an input there, and none can be overridden."""
    block, data = attention_block(opset=12, ir_version=3), feeds()
    patched = plan_for(block.model, FIRING, controls=controls)
    onnx.checker.check_model(patched)
    assert patched.graph.input == block.model.graph.input and patched.graph.initializer == block.model.graph.initializer
    assert np.array_equal(
        run(patched, data)["out"], run(plan_for(attention_block(opset=12).model, FIRING), data)["out"]
    )
    assert unpatch(patched) == block.model


@pytest.mark.parametrize("ir_version", [3, 8])
def test_required_controls_are_ordinary_inputs(ir_version: int) -> None:
    block, data = attention_block(opset=12, ir_version=ir_version), feeds()
    required, optional = (
        plan_for(block.model, FIRING, controls="required"),
        plan_for(attention_block(opset=12).model, FIRING),
    )
    assert [value.name for value in session(required).get_inputs()][-2:] == ["atpatch_enabled", "atpatch_threshold"]
    given = {"atpatch_threshold": np.array(0.5, np.float32)}
    on, off = (run(required, data, atpatch_enabled=np.array(enabled), **given)["out"] for enabled in (True, False))
    assert on.tobytes() == run(optional, data)["out"].tobytes()
    assert off.tobytes() == run(block.model, data)["out"].tobytes()
    assert unpatch(required) == block.model


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("controls", ["optional", "required", "none"])
@pytest.mark.parametrize("text", [NESTED, FUNCTIONS], ids=["if-bodies", "functions"])
def test_sites_in_inner_bodies(text: str, controls: ControlInputs, gating: str) -> None:
    model = parser.parse_model(text)
    data = {name: feeds()[name] for name in "qkv"}
    if "bool go" in text:
        data["go"] = np.array(False)
    before = run(model, data)["out"]
    fed = (
        {"atpatch_enabled": np.array(True), "atpatch_threshold": np.array(0.5, np.float32)}
        if controls == "required"
        else {}
    )
    silent = plan_for(model, SitePlan(Static()), gating=gating, controls=controls)
    onnx.checker.check_model(silent, full_check=True)
    assert run(silent, data, **fed)["out"].tobytes() == before.tobytes()
    firing = plan_for(model, FIRING, gating=gating, controls=controls)
    after = run(firing, data, **fed)["out"]
    assert not np.allclose(after, before, atol=1e-3)
    if controls != "none":
        assert run(firing, data, **{**fed, "atpatch_enabled": np.array(False)})["out"].tobytes() == before.tobytes()
    assert unpatch(silent) == model and unpatch(firing) == model


def test_names_stay_unique_over_all_bodies() -> None:
    for text in (NESTED, FUNCTIONS):
        patched = plan_for(parser.parse_model(text), SitePlan(random_profile(H, np.random.default_rng(0))))
        names: list[str] = []

        def collect(nodes: object, names: list[str] = names) -> None:
            for node in nodes:  # type: ignore[attr-defined]
                names += [output for output in node.output if output.startswith("atpatch/")]
                for attribute in node.attribute:
                    collect(attribute.g.node)

        for body in (patched.graph, *patched.functions):
            collect(body.node)
        assert len(names) == len(set(names)) > 20


def test_two_sites_share_equal_constants() -> None:
    one = plan_for(attention_block().model, FIRING)
    text = NESTED
    two = plan_for(parser.parse_model(text), FIRING)
    ours = [sum(t.name.startswith("atpatch/") for t in m.graph.initializer) for m in (one, two)]
    assert ours[1] <= 2 * ours[0]
    assert Q and Profile
