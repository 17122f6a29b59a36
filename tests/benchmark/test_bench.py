"""`bench`, as a function and as a command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest

import atpatch_onnx
from atpatch_onnx import AtpatchError, bench, patch_model
from atpatch_onnx.benchmark.arms import Arm
from atpatch_onnx.benchmark.footprint import file_bytes, footprints
from atpatch_onnx.benchmark.inputs import random_inputs
from atpatch_onnx.demo.run import FOLDER
from rewriters.finding.finder import find_sites

from ..tiny import attention_model, save_external
from .case import token_model

SHORT = {"pairs": 6, "seconds": 0.05, "rounds": 0}
SHAPE = {"batch": 8, "sequence": 12}


@pytest.fixture(scope="module")
def found(case):
    return bench(
        case.model, case.patched, shapes=[SHAPE, {"batch": 1, "sequence": 12}], pairs=6, seconds=0.05, rounds=1
    )


def test_every_shape_has_a_clean_and_a_flagged_request(found):
    assert [(one.shape["batch"], one.kind, one.flagged) for one in found.timed] == [
        (8, "clean", 0.0), (8, "flagged", 1.0), (1, "clean", 0.0), (1, "flagged", 1.0),
    ]  # fmt: skip
    assert all(
        one.pairs == 6 and one.original.median > 0 and one.ratio.low <= one.ratio.median <= one.ratio.high
        for one in found.timed
    )


def test_json_keys(found):
    done = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {"original", "patched", "ratio", "provider", "threads"} <= done.keys()
    assert {"median", "low", "high"} <= done["ratio"].keys()
    assert (done["provider"], done["threads"], len(done["cases"])) == ("CPUExecutionProvider", 1, 4)
    for side in ("original", "patched"):
        assert {"path", "ms", "file_bytes", "load_ms", "peak_bytes", "idle_bytes"} <= done[side].keys()
    assert done["ratio"]["median"] == max(case["ratio"]["median"] for case in done["cases"] if case["kind"] == "clean")
    assert done["ratios"]["file"] == done["patched"]["file_bytes"] / done["original"]["file_bytes"] > 1


def test_a_share_of_the_batch_can_be_flagged(case):
    timed = bench(case.model, case.patched, shapes=[SHAPE], share=0.25, **SHORT).timed
    assert [(one.kind, one.flagged) for one in timed] == [("clean", 0.0), ("flagged", 0.25)]
    assert timed[0].threshold > timed[1].threshold


def test_flags_are_those_of_the_graph_itself(case, tmp_path):
    """Held against the telemetry of the same patch, under the threshold that was chosen."""
    (flagged,) = (
        one
        for one in bench(case.model, case.patched, shapes=[SHAPE], share=0.5, **SHORT).timed
        if one.kind == "flagged"
    )
    patch_model(case.model, tmp_path / "told.onnx", detector="statistic", telemetry=True)
    feeds = {**random_inputs(token_model(), SHAPE), "atpatch_threshold": np.array(flagged.threshold, np.float32)}
    flags = atpatch_onnx.session(tmp_path / "told.onnx", threads=1).run(["atpatch_flagged"], feeds)[0]
    assert flags.any(1).sum() == 4


@pytest.mark.parametrize(("patch", "kind"), [("silent", "clean"), ("always", "flagged")])
def test_a_detector_without_a_threshold_leaves_one_kind(case, patch, kind):
    found = bench(case.model, getattr(case, patch), shapes=[SHAPE], **SHORT)
    assert [one.kind for one in found.timed] == [kind]
    assert len(found.remarks) == 1


def test_a_frozen_patch_is_timed_as_it_is(case, tmp_path):
    patch_model(case.model, tmp_path / "frozen.onnx", detector="statistic", freeze=True)
    (only,) = bench(case.model, tmp_path / "frozen.onnx", shapes=[SHAPE], **SHORT).timed
    assert (only.kind, only.threshold) == ("clean", None)


def test_rows_of_data_sets_are_taken_by_what_the_patch_flags(tmp_path):
    patch_model(FOLDER / "model.onnx", tmp_path / "p.onnx", hotfix=FOLDER / "model.hotfix")
    models = FOLDER / "model.onnx", tmp_path / "p.onnx"
    timed = bench(
        *models, data=FOLDER / "clean.npz", flagged=FOLDER / "triggered.npz", shapes=[{"batch": 4}], **SHORT
    ).timed
    assert [(one.kind, one.flagged, one.threshold) for one in timed] == [("clean", 0.0, None), ("flagged", 1.0, None)]
    # Of rows that nothing flags there is no flagged request at the patch's own threshold.
    found = bench(*models, data=FOLDER / "clean.npz", flagged=FOLDER / "clean.npz", **SHORT)
    assert [one.kind for one in found.timed] == ["clean"]
    assert "flags none" in found.remarks[0]


def test_graphs_in_memory_are_timed_too(case):
    model, patched = onnx.load(case.model), onnx.load(case.patched)
    found = bench(model, patched, shapes=[SHAPE], **SHORT)
    assert len(found.timed) == 2
    assert found.to_json()["original"]["path"] is None


def test_more_work_shows_in_the_ratio(tmp_path):
    for layers in (1, 4):
        onnx.save_model(token_model(layers, width=64), tmp_path / f"{layers}.onnx")
    found = bench(
        tmp_path / "1.onnx", tmp_path / "4.onnx", shapes=[{"batch": 4, "sequence": 64}], pairs=40, seconds=2, rounds=0
    )
    assert found.headline.ratio.median > 1.7
    assert found.over(1.7, "clean")
    assert not found.over(1.7, "flagged")


def test_memory_and_size_are_those_of_the_model(tmp_path):
    save_external(attention_model(layers=1, width=32), tmp_path / "small.onnx", "small.data")
    save_external(attention_model(layers=2, width=1600), tmp_path / "large.onnx", "large.data")
    weights = 2 * 4 * 1600 * 1600 * 4
    feeds = {"x": np.zeros((1, 4, 32), np.float32)}, {"x": np.zeros((1, 4, 1600), np.float32)}
    models = tmp_path / "small.onnx", tmp_path / "large.onnx"
    small, large = (
        footprints([m], [("clean", f)], threads=1, provider="CPUExecutionProvider", rounds=1)[0]
        for m, f in zip(models, feeds, strict=True)
    )
    assert weights <= large.file_bytes < weights + 1e5
    assert file_bytes(models[1]) == large.file_bytes
    assert large.peak_bytes - small.peak_bytes > 0.9 * weights
    assert small.load_ms > 0
    assert small.idle_bytes < small.peak_clean_bytes <= small.peak_bytes


@pytest.mark.parametrize("options", [
    {"shapes": [{"length": 3}]},
    {"share": 0.0},
    {"threads": 0},
    {"flagged": {"input_ids": np.zeros((2, 3), int)}},
    {"provider": "CUDAExecutionProvider"},
])  # fmt: skip
def test_impossible_options_are_refused(case, options):
    with pytest.raises(AtpatchError) as caught:
        bench(case.model, case.patched, **{**SHORT, **options})
    assert caught.value.code == ("ATP052" if "provider" in options else "ATP060")


def test_inputs_that_do_not_fit_are_refused_in_the_runtimes_words(case, tmp_path):
    np.savez(tmp_path / "d.npz", input_ids=np.full((2, 3), 99), attention_mask=np.ones((2, 3), int))
    with pytest.raises(AtpatchError) as caught:
        bench(case.model, case.patched, data=tmp_path / "d.npz", **SHORT)
    assert caught.value.code == "ATP052"


@pytest.mark.parametrize("threshold", [1e30, -1e30])
def test_bound_memory_gives_the_same_answers(case, threshold):
    """What is timed on CUDA, here with the CPU's memory; the patch's controls are bound like the inputs."""
    arm = Arm(case.patched, 1)
    feeds = {
        **random_inputs(token_model(), SHAPE),
        "atpatch_threshold": np.array(threshold, np.float32),
        "atpatch_enabled": np.array(True),
    }
    binding = arm.bound(feeds, arm.outputs, "cpu")()
    assert np.array_equal(binding.copy_outputs_to_cpu()[0], arm.run(feeds)["y"])
    assert np.array_equal(arm.run(feeds)["y"], Arm(case.model, 1).run(feeds)["y"]) is (threshold > 0)


# The command

FEW = ["--shape", "batch=2,sequence=8", "--pairs", "4", "--seconds", "0.05", "--rounds", "0"]


def test_the_command_prints_only_json(case, atpatch):
    done = atpatch("bench", case.model, case.patched, *FEW, "--shape", "batch=1", "--json")
    assert (done.code, done.err) == (0, "")
    assert [one["shape"] for one in done.json["cases"]] == [{"batch": 2, "sequence": 8}] * 2 + [{"batch": 1}] * 2


def test_the_command_shows_a_table(case, atpatch):
    done = atpatch("bench", case.model, case.patched, *FEW)
    assert (done.code, done.out) == (0, "")
    assert "batch 2, sequence 8" in done.err


def test_fail_over_is_exit_status_1(case, atpatch):
    done = atpatch("bench", case.model, case.patched, *FEW, "--fail-over", "0.001")
    assert done.code == 1
    assert "FAILS: clean batch 2, sequence 8" in done.err
    assert "FAILS: flagged" not in done.err
    assert "FAILS: flagged" in atpatch("bench", case.model, case.patched, *FEW, "--fail-over-flagged", "0.001").err
    assert atpatch("bench", case.model, case.patched, *FEW, "--fail-over", "1000").code == 0


def test_what_is_the_same_on_every_machine_may_be_bounded(case, atpatch):
    few = ["--shape", "batch=2,sequence=8", "--pairs", "4", "--seconds", "0.05", "--rounds", "1"]
    found = atpatch("bench", case.model, case.patched, *few, "--json").json
    before, after = (len(onnx.load(path).graph.node) for path in (case.model, case.patched))
    assert found["original"]["nodes"] == before and found["patched"]["nodes"] >= after
    assert found["nodes_a_site"] == (found["patched"]["nodes"] - before) / len(find_sites(onnx.load(case.model))[0]) > 1
    held = [f"nodes={found['nodes_a_site']}", f"file={found['ratios']['file']}", "load=1e6", "peak=1e6", "flagged=1e6"]
    bounds = [part for bound in held for part in ("--fail-over", bound)]
    assert atpatch("bench", case.model, case.patched, *few, *bounds).code == 0
    done = atpatch("bench", case.model, case.patched, *few, *bounds, "--fail-over", "nodes=1", "--fail-over", "file=1")
    assert done.code == 1
    failed = [line.split(": ", 1)[1] for line in done.err.splitlines() if line.startswith("FAILS")]
    assert failed == [
        f"nodes a site: {found['nodes_a_site']:.6g}, over 1",
        f"file is {found['ratios']['file']:.6g}, over 1",
    ]


@pytest.mark.parametrize("bound", ["speed=1", "nodes=", "nodes=x", "=1", "nodes=nan", "1.03x"])
def test_what_is_no_bound_is_refused_before_anything_runs(case, atpatch, bound):
    done = atpatch("bench", case.model, case.patched, "--fail-over", bound)
    assert done.code == 2 and ("cannot be bounded" in done.err or "is no number" in done.err)


@pytest.mark.parametrize(
    ("patch", "bound", "words"),
    [
        ("patched", "load=9", "load was not measured, and its bound is 9: leave --rounds at 1 or more"),
        ("model", "nodes=9", "nodes was not measured, and its bound is 9: the second model has no stamp"),
        ("silent", "flagged=9", "no flagged request was timed, and its bound is 9"),
        ("always", "9", "no clean request was timed, and its bound is 9"),
    ],
)
def test_a_bound_on_what_is_not_measured_fails(case, atpatch, patch, bound, words):
    done = atpatch("bench", case.model, getattr(case, patch), *FEW, "--fail-over", bound)
    assert done.code == 1 and words in " ".join(done.err.split())


def test_refusals_are_exit_status_2(case, atpatch, tmp_path):
    shutil.copy(case.model, tmp_path / "m.onnx")
    assert atpatch("bench", tmp_path / "m.onnx", tmp_path / "none.onnx", *FEW).code == 2
    assert "ATP060" in atpatch("bench", case.model, case.patched, "--shape", "8x128").err
    swapped = atpatch("bench", case.patched, case.model)
    assert swapped.code == 2 and f"bench {case.model} {case.patched}" in " ".join(swapped.err.split())
