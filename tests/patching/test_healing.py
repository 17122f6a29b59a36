"""`patch --mend heal` on a decoder's file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.exports import export_model
from tests.rewriters.decoders import decoder, decoder_feeds, merged_decoder


def outputs(path, feeds):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {v.name: feeds[v.name] for v in session.get_inputs()}), strict=True))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "llama.onnx"
    onnx.save(decoder(True, "llama"), path)
    return path


@pytest.mark.parametrize("more", [(), ("--portable",), ("--passes", "two", "--freeze")], ids=" ".join)
def test_a_decoder_is_healed(llama, tmp_path, atpatch, more):
    """The first new token of five is column 4; columns of the cache are judged no more."""
    for name, columns in (("silent", "none"), ("cached", "1,3"), ("firing", "5")):
        options = ("--detector", "static", "--columns", columns, "--mend", "heal", "--telemetry", *more)
        assert atpatch("patch", llama, "-o", tmp_path / f"{name}.onnx", *options).code == 0
    feeds = decoder_feeds(True)
    before = outputs(llama, feeds)
    silent, cached, firing = (outputs(tmp_path / f"{name}.onnx", feeds) for name in ("silent", "cached", "firing"))
    assert all(silent[name].tobytes() == cached[name].tobytes() == array.tobytes() for name, array in before.items())
    assert firing["atpatch_flagged"].all() and not silent["atpatch_flagged"].any()
    for part in ("key", "value"):
        was, now = (answer[f"present.0.{part}"] for answer in (before, firing))
        assert np.array_equal(was[:, :, :5], now[:, :, :5]) and not np.allclose(was[:, :, 5], now[:, :, 5], atol=1e-3)
    assert np.allclose(firing["present.0.value"][:, :, 5], before["present.0.value"][:, :, 4])
    assert atpatch("unpatch", tmp_path / "firing.onnx", "-o", tmp_path / "back.onnx").code == 0
    assert (tmp_path / "back.onnx").read_bytes() == llama.read_bytes()


def test_what_healing_without_a_branch_costs_is_said(llama, tmp_path, atpatch):
    options = ("--detector", "static", "--columns", "5", "--mend", "heal", "-o", tmp_path / "p.onnx", "--gating")
    branchless, branched = (atpatch("patch", llama, *options, gating).err for gating in ("none", "if"))
    assert "every step of generation runs the detectors" in branchless and "--passes one" not in branchless
    assert "every step" not in branched


def test_a_graph_without_tokens_is_refused(tmp_path, atpatch):
    options = ("--detector", "static", "--columns", "3", "--mend", "heal")
    run = atpatch("patch", export_model("vit", "torchscript").path, "-o", tmp_path / "p.onnx", *options)
    assert run.code == 2 and "ATP023" in run.err and "--mend redistribute" in run.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_the_chosen_side_of_an_encoder_decoder_is_healed(tmp_path, atpatch, side):
    path = export_model("t5", "torchscript").path
    options = ("--detector", "static", "--columns", "3", "--mend", "heal", "--telemetry", "--include", f"{side}.*Self")
    assert atpatch("patch", path, "-o", tmp_path / "p.onnx", *options).code == 0
    feeds = export_model("t5", "torchscript").feeds(2)
    before, after = outputs(path, feeds), outputs(tmp_path / "p.onnx", feeds)
    assert after["atpatch_flagged"].all()
    assert any(not np.allclose(array, after[name], atol=1e-3) for name, array in before.items())


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A folder as Optimum writes it, with a merged decoder."""
    folder = tmp_path_factory.mktemp("merged") / "gpt2"
    folder.mkdir()
    onnx.save(merged_decoder(), folder / "decoder_model_merged.onnx")
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return folder


HEAL = ("--detector", "static", "--columns", "3", "--mend", "heal")


def test_a_merged_decoder_is_healed_inspected_and_restored(merged, tmp_path, atpatch):
    done = atpatch("patch", merged, "-o", tmp_path / "out", *HEAL, "--telemetry", "--json")
    assert done.code == 0 and len(done.json["sites"]) == 4 and done.json["left"] == []
    name = "decoder_model_merged.onnx"
    before, after = (
        outputs(folder / name, {**decoder_feeds(False), "use_cache_branch": np.array([False])})
        for folder in (merged, tmp_path / "out")
    )
    assert after["atpatch_flagged"].all() and after["atpatch_flagged"].shape == (3, 4)
    assert np.array_equal(after["present.0.value"][0, :, 3], before["present.0.value"][0, :, 2])
    seen = atpatch("inspect", tmp_path / "out" / name, "--json").json
    assert len(seen["sites"]) == 4 and seen["model"]["patch"]["sites"].split() == [one["id"] for one in seen["sites"]]
    assert atpatch("audit", tmp_path / "out" / name, "--json").json["verdict"] == "clean"
    assert atpatch("unpatch", tmp_path / "out", "-o", tmp_path / "back").code == 0
    assert (tmp_path / "back" / name).read_bytes() == (merged / name).read_bytes()


def test_sites_of_one_branch_of_a_merged_decoder_are_too_few(merged, tmp_path, atpatch):
    run = atpatch("patch", merged / "decoder_model_merged.onnx", "-o", tmp_path / "p.onnx", *HEAL, "--exclude", "[.]2$")
    assert run.code == 2 and "ATP023" in run.err and "both branches" in run.err and not list(tmp_path.iterdir())
