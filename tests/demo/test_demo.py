"""The demo end to end on the committed victim, and that the committed files belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto

from atpatch_onnx.cli import cli
from atpatch_onnx.comparison.attention import capture_maps, effective_map
from atpatch_onnx.demo.page import render_demo
from atpatch_onnx.demo.run import FILES, FOLDER, Demo, run_demo
from atpatch_onnx.demo.trigger import PATCH, TARGET
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.capture import canonical_values
from atpatch_onnx.inference.datasets import load_dataset
from atpatch_onnx.inference.runner import Runner, expose
from models.digits_vit import data
from models.digits_vit.build import RESULTS
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.plan import BenignPair
from rewriters.sites import Site


@pytest.fixture(scope="module")
def demo() -> Demo:
    return run_demo()


def test_the_command_meets_its_bounds(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "new"), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    done = json.loads(result.stdout)
    assert done["original"]["asr"] >= 0.95
    assert done["original"]["accuracy"] >= 0.95
    assert done["patched"]["asr_star"] <= 0.01
    assert abs(done["patched"]["accuracy"] - done["original"]["accuracy"]) <= 0.005
    assert done["patched"]["clean_flagged"] <= 0.02
    assert 0 < done["latency_ratio"] < 20
    page = Path(done["report"])
    assert page == tmp_path / "new" / "atpatch-demo.html"
    assert "<h1>The patch stops " in page.read_text("utf-8")


def test_the_demo_files_can_be_copied_and_used(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    result = CliRunner().invoke(cli, ["demo", "--copy", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    names = {*FILES, "triggered.npz"}
    assert {path.name for path in folder.iterdir()} == names and all(
        str(folder / name) in result.stderr for name in names
    )
    assert all((folder / name).read_bytes() == (FOLDER / name).read_bytes() for name in FILES)
    made, committed = (load_dataset(where / "triggered.npz") for where in (folder, FOLDER))
    assert made.digest == committed.digest
    assert not list(tmp_path.glob("*.html"))
    assert run_demo(folder).comparison.figures["patched"].values["asr_star"] <= 0.01


@pytest.mark.parametrize(("target", "more", "code"), [("new", ["--json"], "ATP060"), ("taken", [], "ATP019")])
def test_a_copy_that_cannot_be_made_is_refused(tmp_path: Path, target: str, more: list[str], code: str) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    result = CliRunner().invoke(cli, ["demo", "--copy", str(tmp_path / target), *more])
    assert result.exit_code == 2 and code in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_command_prints_tables_for_people(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == ""
    for words in ("ASR*", "clean rows flagged", "ratio", "atpatch-demo.html"):
        assert words in result.stderr


def test_the_page_shows_both_digits_every_site_and_what_was_inserted(demo: Demo) -> None:
    page = render_demo(demo)
    sites, shown = demo.inspection.sites, demo.comparison.exemplar
    assert shown is not None and len(shown.sites) == len(sites)
    # Three digits, attention over each at every site, a profile a site, two margins, two latencies.
    assert page.count("<svg") == 3 + 3 * len(sites) + len(sites) + 2 + 2
    assert shown.redistributed and shown.sites[0].flagged[data.TRIGGER_COLUMN]
    assert page.count('stroke="var(--flag)"') == sum(int(view.flagged[1:].sum()) for view in shown.sites)
    assert f"<h1>{demo.comparison.verdict()}</h1>" in page
    assert all(f"+{count}</td>" in page for count in demo.inserted.values()) and demo.inserted
    assert len(page) < 1 << 20


def test_the_verdict_says_so_when_the_patch_fails(demo: Demo) -> None:
    original = demo.comparison.outputs["original"]
    failed = replace(demo.comparison, outputs={"original": original, "patched": original})
    assert "stops none of" in failed.verdict()
    assert demo.comparison.mended() and not failed.mended()


def test_a_missing_victim_is_refused_with_a_code(tmp_path: Path) -> None:
    with pytest.raises(AtpatchError, match="ATP002"):
        run_demo(tmp_path)


def test_the_page_is_not_written_over_a_folder(tmp_path: Path) -> None:
    (tmp_path / "atpatch-demo.html").mkdir()
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "ATP019" in result.stderr


def test_effective_maps_times_benign_values_is_what_the_graph_computes(demo: Demo) -> None:
    """B · V' = the patched product, where V' holds benign values at flagged columns; so the pictures show the patch
    itself.
    """
    model = model_io.load(FOLDER / "model.onnx")
    sites, _ = find_sites(model)
    hotfix = Hotfix.load(FOLDER / "model.hotfix")
    plan = hotfix.plan(sites, None, telemetry=True)
    patched = patch(model, plan, sites)
    triggered = load_dataset(FOLDER / "triggered.npz")
    rows = np.arange(8)
    maps = capture_maps(patched, FOLDER, sites, triggered, rows)
    inner = [name for site in sites for name in (site.values, site.product)]
    runner = Runner(expose(patched, [(name, TensorProto.FLOAT) for name in inner]), FOLDER, 1)
    _, outputs = next(runner.batches(triggered, rows, len(rows), inner))
    fired = 0
    for site in sites:
        if site.id not in plan.sites:
            continue
        pair = plan.sites[site.id].benign
        assert pair.values is not None and not pair.own_values
        values, product = canonical_values(site, outputs[site.values]), _canonical_product(site, outputs[site.product])
        for row in rows:
            flagged = maps[site.id].flagged[row]
            fired += flagged.any()
            replaced = np.where(flagged[:, None], np.broadcast_to(pair.values, values[row].shape), values[row])
            b = effective_map(maps[site.id].probabilities[row], flagged, pair)
            np.testing.assert_allclose(b @ replaced, product[row], atol=1e-5)
    assert fired >= len(rows)


def _canonical_product(site: Site, array: np.ndarray) -> np.ndarray:
    return array if site.layout.output is None else array.transpose(site.layout.output)


def test_effective_map_keeps_row_sums_and_spreads_saturated_rows() -> None:
    a = np.array([[[0.2, 0.2, 0.4], [0.0, 0.0, 1.0]]], np.float32)
    flagged = np.array([False, False, True])
    b = effective_map(a, flagged, BenignPair(np.array([0.75], np.float32)))
    np.testing.assert_allclose(b, [[[0.3, 0.3, 0.2], [0.375, 0.375, 0.25]]], atol=1e-6)
    np.testing.assert_array_equal(effective_map(a, np.zeros(3, bool), BenignPair()), a)


def test_committed_results_are_those_of_the_committed_files(demo: Demo) -> None:
    results = json.loads(RESULTS.read_text())
    for name in ("original", "patched"):
        fresh = demo.comparison.figures[name].shares
        assert fresh
        # Another onnxruntime rounds differently; one borderline digit may tip.
        assert all(abs(share.hits - results[name][key]["hits"]) <= 1 for key, share in fresh.items())


def test_committed_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 1_000_000


def test_data_sets_differ_from_their_clean_twins_only_in_the_trigger() -> None:
    clean, triggered, debug = (load_dataset(FOLDER / f"{name}.npz") for name in ("clean", "triggered", "debug"))
    assert triggered.clean_row is not None and debug.pair is not None and debug.columns is not None
    anomalous = np.flatnonzero(debug.pair >= 0)
    for images, twins in (
        (triggered.inputs["pixel_values"], clean.inputs["pixel_values"][triggered.clean_row]),
        (debug.inputs["pixel_values"][anomalous], debug.inputs["pixel_values"][debug.pair[anomalous]]),
    ):
        differs = (images != twins).any((0, 1))
        assert differs[-PATCH:, -PATCH:].all()
        assert not differs[:-PATCH].any() and not differs[:, :-PATCH].any()
    assert triggered.target == debug.target == TARGET
    assert triggered.labels is not None and not (triggered.labels == TARGET).any()
    np.testing.assert_array_equal(np.flatnonzero(debug.columns.any(0)), [data.TRIGGER_COLUMN])
    np.testing.assert_array_equal(debug.columns.any(1), debug.pair >= 0)


def test_no_test_digit_is_in_the_debugging_set() -> None:
    clean, debug = load_dataset(FOLDER / "clean.npz"), load_dataset(FOLDER / "debug.npz")
    seen = {image.tobytes() for image in debug.inputs["pixel_values"]}
    split = data.load(seed=json.loads(RESULTS.read_text())["seed"])
    np.testing.assert_array_equal(split.test[0], clean.inputs["pixel_values"])
    assert not any(image.tobytes() in seen for image in clean.inputs["pixel_values"])
    assert not any(
        image.tobytes() in {other.tobytes() for other in split.train[0]} for image in clean.inputs["pixel_values"]
    )
