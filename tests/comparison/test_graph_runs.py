"""Running graphs over data: scores, flags, differences, and that they are those of onnxruntime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from atpatch_onnx import AtpatchError, compare, patch_model
from atpatch_onnx.comparison.graph_runs import difference
from atpatch_onnx.inference.controls import required_controls
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.names import FLAGGED
from rewriters.plan import PatchPlan, SitePlan, Statistic

from ..tiny import plain_model
from .case import LENGTH, WIDTH, classifier, rows


def run(model, x: np.ndarray, *names: str) -> list[np.ndarray]:
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    live = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return live.run(list(names) or None, {"x": x, **required_controls(live)})


def test_scores_and_differences_are_those_of_onnxruntime(case, comparison) -> None:
    x = np.load(case.clean)["x"]
    (before,), (after,) = run(case.model, x, "logits"), run(case.patched, x, "logits")
    np.testing.assert_allclose(comparison.outputs["original"]["clean"].scores, before, atol=1e-6)
    np.testing.assert_allclose(comparison.outputs["patched"]["clean"].scores, after, atol=1e-6)
    apart = np.abs(before - after)
    cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    found = comparison.outputs["patched"]["clean"].differences["logits"]
    np.testing.assert_allclose(found, np.stack([apart.max(1), apart.mean(1), cosine], 1), atol=1e-5)
    assert apart.max() > 0.05


def test_the_silent_patch_is_the_original_bit_for_bit(comparison) -> None:
    assert all(
        (rows[:, 0] == 0).all() for run in comparison.outputs["silent"].values() for rows in run.differences.values()
    )
    share = comparison.changes["silent"].identical["clean"]
    assert (share.hits, share.count) == (40, 40)


FORMS = {
    "default": {},
    "gating none, as for cuda": {"gating": "none"},
    "controls none": {"controls": "none"},
    "controls required": {"controls": "required"},
    "telemetry": {"telemetry": True},
    "portable": {"gating": "none", "controls": "none"},
    "two passes, portable": {"passes": "two", "gating": "none", "controls": "none"},
    "two passes": {"passes": "two"},
    "two passes, gating none": {"passes": "two", "gating": "none"},
    "two passes, controls none": {"passes": "two", "controls": "none"},
    "two passes, telemetry": {"passes": "two", "telemetry": True},
    "two passes, joint": {"passes": "two", "joint": "sum"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_patch_tells_the_flags_of_its_telemetry(form: str) -> None:
    sites, _ = find_sites(classifier())
    ids = tuple(site.id for site in sites)
    plan = replace(PatchPlan(dict.fromkeys(ids, SitePlan(Statistic())), 1.2, groups=(ids,)), **FORMS[form])
    told, patched = (patch(classifier(), made, sites) for made in (replace(plan, telemetry=True), plan))
    x = rows(30, seed=4)
    flags = run(told, x, FLAGGED)[0]
    assert flags.any() and not flags.all()
    compared = compare(classifier(), patched, {"x": x}, threads=1, seconds=0, exemplar=False)
    np.testing.assert_array_equal(compared.outputs["patched"]["clean"].flags, flags)
    share = compared.figures["patched"].shares["clean_flagged"]
    assert (share.hits, share.count) == (flags.any(1).sum(), len(x))


def test_a_graph_that_does_not_tell_has_no_rate(case) -> None:
    patched = patch_model(classifier(), detector="static", columns=(2,))
    next(entry for entry in patched.metadata_props if entry.key == "atpatch.observe").value = ""
    found = compare(classifier(), patched, case.clean, threads=1, seconds=0, exemplar=False)
    assert "clean_flagged" not in found.figures["patched"].shares
    assert found.setup["models"]["patched"]["flags"].startswith("not known: ")


def test_a_fixed_batch_is_filled_and_cut() -> None:
    x = rows(11, seed=6)
    fixed = compare(
        classifier(batch=4),
        patch_model(classifier(batch=4), detector="static", columns=(1,)),
        {"x": x},
        threads=1,
        seconds=0.01,
    )
    free = compare(
        classifier(), patch_model(classifier(), detector="static", columns=(1,)), {"x": x}, threads=1, seconds=0
    )
    for name in ("original", "patched"):
        np.testing.assert_allclose(fixed.outputs[name]["clean"].scores, free.outputs[name]["clean"].scores, atol=1e-5)
    assert fixed.outputs["patched"]["clean"].flags.shape == (11, 2)
    assert fixed.setup["batch"] == 4


def test_the_batch_size_changes_nothing_but_rounding(case, comparison) -> None:
    whole = compare(case.model, case.patched, case.clean, batch=64, threads=1, seconds=0, exemplar=False)
    for name in ("original", "patched"):
        np.testing.assert_allclose(
            whole.outputs[name]["clean"].scores, comparison.outputs[name]["clean"].scores, atol=1e-5
        )


def test_the_floor_is_rounding(comparison) -> None:
    floor = comparison.floor["logits"]
    assert floor.shape == (16, 3)
    assert floor[:, 0].max() < 1e-4


def test_requests_are_timed_in_all_graphs(comparison) -> None:
    assert set(comparison.requests) == {"flagged"}  # the static detector flags every row
    times = comparison.requests["flagged"]
    assert set(times) == {"original", "patched", "silent"}
    assert len({len(seconds) for seconds in times.values()}) == 1
    assert all((seconds > 0).all() and len(seconds) >= 10 for seconds in times.values())


def test_differences_of_odd_values() -> None:
    a = np.array([[np.nan, 1.0], [np.inf, 1.0], [np.inf, 0.0], [0.0, 0.0]])
    b = np.array([[np.nan, 1.0], [np.inf, 1.0], [2.0, 0.0], [0.0, 0.0]])
    found = difference(a, b, 4)
    np.testing.assert_array_equal(found[:, 0], [0, 0, np.inf, 0])
    np.testing.assert_array_equal(found[[0, 1, 3], 2], [1, 1, 1])
    assert difference(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), 1)[0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4))),
        (np.zeros(()), np.zeros(())),
        (np.array(["a", "b"]), np.array(["a", "b"])),
        ([1], [1]),
    ],
)
def test_what_cannot_be_subtracted_has_no_difference(one: object, other: object) -> None:
    assert difference(one, other, 2) is None


def test_inputs_that_are_missing_are_refused(case) -> None:
    with pytest.raises(AtpatchError, match="ATP056"):
        compare(case.model, case.patched, {"z": rows(3)}, threads=1)


def test_graphs_of_other_models_are_refused(case, tmp_path) -> None:
    onnx.save_model(plain_model(), tmp_path / "other.onnx")
    with pytest.raises(AtpatchError, match="patched has no output 'logits'"):
        compare(case.model, tmp_path / "other.onnx", {"x": rows(2)}, threads=1)


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"also": {"patched": "x.onnx"}}, {"also": {"": "x.onnx"}}, {"also": {"a\tb": "x.onnx"}}]
)
def test_impossible_options_are_refused(case, options: dict) -> None:
    with pytest.raises(AtpatchError, match="ATP060"):
        compare(case.model, case.patched, case.clean, **options)


def test_models_in_memory_compare_as_files_do(case, comparison) -> None:
    found = compare(
        onnx.load(case.model),
        onnx.load(case.patched),
        case.clean,
        triggered=case.triggered,
        threads=1,
        batch=16,
        seconds=0,
    )
    assert found.figures["patched"].values["asr"] == comparison.figures["patched"].values["asr"]
    assert found.setup["models"]["original"]["path"] is None
    assert found.exemplar is not None and found.exemplar.inputs["x"].shape == (LENGTH, WIDTH)
