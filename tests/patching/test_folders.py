"""`patch`, `unpatch` and `inspect` of a folder: which model files are patched, what comes along, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx import AtpatchError, patch, unpatch
from atpatch_onnx.inference.sessions import session
from atpatch_onnx.inspection.folders import read_folder
from rewriters.editing.patcher import is_patched

from ..cli.hotfixes import hotfix_for as hotfix_of
from ..tiny import attention_model, plain_model, save_external, snapshot, wire

STATIC = ["--detector", "static", "--columns", "1"]
X = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)


def genai(folder: Path, **parts: object) -> Path:
    """A folder of onnxruntime-genai with these parts of the model, and files for those that name one."""
    folder.mkdir(exist_ok=True)
    (folder / "genai_config.json").write_text(json.dumps({"model": {"type": "llama", **parts}}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def hugging_face(folder: Path, *names: str) -> Path:
    """A folder of Hugging Face with these model files, each with weights of its own."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        onnx.save_model(attention_model(seed=seed), folder / name)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def llama(tmp_path):
    folder = genai(tmp_path / "llama", decoder={"filename": "decoder.onnx"}, embedding={"filename": "embed.onnx"})
    save_external(attention_model(layers=2), folder / "decoder.onnx")
    onnx.save_model(attention_model(), folder / "embed.onnx")
    onnx.save_model(attention_model(), folder / "spare.onnx")
    return folder


def patched_files(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*.onnx"))
        if is_patched(onnx.load(path, load_external_data=False))
    ]


def test_genai_the_decoder_is_patched_and_everything_else_comes_along(llama, tmp_path, atpatch):
    before = snapshot(llama)
    run = atpatch("patch", llama, "-o", tmp_path / "out", *STATIC, "--json")
    assert run.code == 0 and run.json["output"] == str(tmp_path / "out")
    assert [(one["file"], one["part"], one["controls"]) for one in run.json["files"]] == [
        ("decoder.onnx", "decoder", "none")
    ]
    assert len(run.json["sites"]) == 2 and run.json["sites"] == run.json["files"][0]["sites"]
    assert [one["file"] for one in run.json["left"]] == ["embed.onnx", "spare.onnx"]
    assert "embedding" in run.json["left"][0]["why"] and "does not name" in run.json["left"][1]["why"]
    assert patched_files(tmp_path / "out") == ["decoder.onnx"]
    after = snapshot(tmp_path / "out")
    assert {name: after[name] for name in before if name != "decoder.onnx"} == {
        name: digest for name, digest in before.items() if name != "decoder.onnx"
    }
    assert before.keys() == after.keys() and snapshot(llama) == before
    assert sorted(os.listdir(tmp_path)) == ["llama", "out"]
    one, two = (session(folder / "decoder.onnx").run(None, {"x": X})[0] for folder in (llama, tmp_path / "out"))
    assert not np.allclose(one, two, atol=1e-3)


def test_unpatch_gives_the_same_folder_again(llama, tmp_path, atpatch):
    atpatch("patch", llama, "-o", tmp_path / "out", *STATIC)
    run = atpatch("unpatch", tmp_path / "out", "-o", tmp_path / "back", "--json")
    assert run.code == 0 and [one["file"] for one in run.json["files"]] == ["decoder.onnx"]
    assert snapshot(tmp_path / "back") == snapshot(llama)


def test_by_default_the_output_lies_next_to_the_folder(llama, atpatch):
    assert atpatch("patch", llama, *STATIC, "--json").json["output"] == f"{llama}.patched"
    assert atpatch("unpatch", f"{llama}.patched", "--json").json["output"] == f"{llama}.unpatched"
    assert snapshot(Path(f"{llama}.unpatched")) == snapshot(llama)


@pytest.mark.parametrize(
    ("options", "controls", "words"),
    [
        ([], "none", "always on"),
        (["--controls", "none"], "none", None),
        (["--freeze"], "none", None),
        (["--controls", "required"], "required", "set_model_input"),
        (["--controls", "optional"], "optional", "ignores optional inputs"),
    ],
)
def test_genai_gets_controls_that_work_there_and_is_told_of_those_that_do_not(
    llama, tmp_path, atpatch, options, controls, words
):
    run = atpatch("patch", llama, "-o", tmp_path / "out", *STATIC, *options, "--json")
    assert run.json["files"][0]["controls"] == controls
    assert words in run.err if words else run.err == ""


@pytest.mark.parametrize(
    ("value", "options", "said"),
    [
        ("1", ["--gating", "if"], True),
        (True, ["--gating", "if"], True),
        ("1", ["--gating", "none"], False),
        ("0", ["--gating", "if"], False),
    ],
)
def test_a_branch_where_cuda_graphs_are_asked_for_is_told(llama, tmp_path, atpatch, value, options, said):
    session_options = {"provider_options": [{"cuda": {"enable_cuda_graph": value}}]}
    genai(llama, decoder={"filename": "decoder.onnx", "session_options": session_options})
    run = atpatch("patch", llama, "-o", tmp_path / "out", *STATIC, "--controls", "none", *options)
    assert run.code == 0 and ("enable_cuda_graph" in run.err) is said


def test_optimum_keeps_optional_controls(tmp_path, atpatch):
    folder = hugging_face(tmp_path / "bert", "model.onnx")
    assert atpatch("patch", folder, *STATIC, "--json").json["files"][0]["controls"] == "optional"


def test_every_file_that_optimum_or_transformers_js_may_choose_is_patched(tmp_path, atpatch):
    names = [
        "model.onnx",
        "onnx/decoder_model_merged_quantized.onnx",
        "decoder_model.onnx",
        "decoder_with_past_model.onnx",
        "encoder_model.onnx",
    ]
    folder = hugging_face(tmp_path / "t5", *names, "onnx/other.onnx", "old/model.onnx")
    run = atpatch("patch", folder, *STATIC, "--json")
    assert sorted(one["file"] for one in run.json["files"]) == sorted(names) == patched_files(tmp_path / "t5.patched")
    assert [one["file"] for one in run.json["left"]] == ["old/model.onnx", "onnx/other.onnx"]
    assert len(run.json["sites"]) == len(names) and run.json["sites"][0].startswith("decoder_model.onnx:")


def test_a_file_without_attention_is_left_and_said(tmp_path, atpatch):
    folder = hugging_face(tmp_path / "two", "decoder_model.onnx")
    onnx.save_model(plain_model(), folder / "encoder_model.onnx")
    run = atpatch("patch", folder, *STATIC)
    assert run.code == 0 and "encoder_model.onnx" in run.err and "ATP010" in run.err
    assert patched_files(tmp_path / "two.patched") == ["decoder_model.onnx"]
    named = atpatch("patch", folder, "-o", tmp_path / "out", *STATIC, "--file", "encoder_model.onnx")
    assert named.code == 3 and not (tmp_path / "out").exists()


def test_named_files_and_only_those_are_patched(tmp_path, atpatch):
    folder = hugging_face(tmp_path / "two", "encoder_model.onnx", "onnx/decoder_model.onnx", "spare.onnx")
    run = atpatch("patch", folder, *STATIC, "--file", "decoder_model.onnx", "--file", "spare.onnx", "--json")
    assert patched_files(tmp_path / "two.patched") == ["onnx/decoder_model.onnx", "spare.onnx"]
    assert [(one["file"], one["why"]) for one in run.json["left"]] == [("encoder_model.onnx", "not named")]


def hotfix_next_to(path: Path) -> Path:
    """A hotfix of this very model, next to it."""
    made = path.with_suffix(".hotfix")
    hotfix_of(onnx.load(path), path.parent).save(made)
    return made


@pytest.mark.parametrize("place", ["next to the file", "given"])
def test_a_hotfix_goes_into_the_file_that_it_was_made_for(tmp_path, atpatch, place):
    folder = hugging_face(tmp_path / "two", "encoder_model.onnx", "decoder_model.onnx")
    hotfix = hotfix_next_to(folder / "decoder_model.onnx")
    options = []
    if place == "given":
        options = ["--hotfix", hotfix.rename(tmp_path / "fit.hotfix")]
    run = atpatch("patch", folder, *options, "--json")
    assert run.code == 0, run.err
    assert patched_files(tmp_path / "two.patched") == ["decoder_model.onnx"]
    (left,) = run.json["left"]
    assert left["file"] == "encoder_model.onnx"
    assert ("ATP054" if place == "given" else "no hotfix next to it") in left["why"]


def test_a_hotfix_that_fits_no_file_is_refused(tmp_path, atpatch):
    folder = hugging_face(tmp_path / "two", "encoder_model.onnx", "decoder_model.onnx")
    onnx.save_model(attention_model(seed=9), tmp_path / "third.onnx")
    hotfix = hotfix_next_to(tmp_path / "third.onnx")
    run = atpatch("patch", folder, "--hotfix", hotfix)
    assert run.code == 2 and "ATP054" in run.err and not (tmp_path / "two.patched").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--in-place"], "in place"),
        (["--file", "no.onnx"], "no.onnx"),
        (["--hotfix", "x.hotfix", "--force"], "--file"),
        (["--calibrate", "rows.npz", "--save-hotfix", "x.hotfix"], "--file"),
    ],
)
def test_options_that_make_no_sense_for_a_folder(tmp_path, atpatch, options, words):
    folder = hugging_face(tmp_path / "two", "encoder_model.onnx", "decoder_model.onnx")
    run = atpatch("patch", folder, *(STATIC if len(options) < 3 else []), *options)
    assert run.code == 2 and "ATP060" in run.err and words in run.err
    assert os.listdir(tmp_path) == ["two"]


def test_a_file_takes_no_names(model_path, atpatch):
    assert "ATP060" in atpatch("patch", model_path, *STATIC, "--file", "model.onnx").err


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ("", "ATP093"),
        ("[]", "ATP093"),
        ("{}", "ATP093"),
        ("[" * 100_000, "ATP093"),
        ('{"model": {"decoder": {"filename": "missing.onnx"}}}', "ATP093"),
        ('{"model": {"decoder": {"filename": "../model.onnx"}}}', "ATP093"),
        ('{"model": {"decoder": {"filename": "/etc/hostname"}}}', "ATP093"),
        ('{"model": {"decoder": {"filename": 3}}}', "ATP093"),
        ('{"model": {"decoder": {"filename": "a\\u0000b"}}}', "ATP093"),
        (None, "ATP092"),
    ],
)
def test_configurations_that_name_no_model(model_path, tmp_path, config, code):
    folder = tmp_path / "folder"
    folder.mkdir()
    if config is not None:
        (folder / "genai_config.json").write_text(config)
    with pytest.raises(AtpatchError, match=code):
        patch(folder, detector="static", columns=())
    assert sorted(os.listdir(tmp_path)) == ["folder", "model.onnx"]


def test_the_stages_of_a_pipeline_are_parts_of_the_decoder(tmp_path):
    stages = [{"embedding": {"filename": "e.onnx"}}, {"context": {"filename": "c.onnx"}}, "no stage"]
    folder = genai(tmp_path / "npu", decoder={"pipeline": stages}, vision={"filename": "v.onnx"})
    for name in "ecv":
        (folder / f"{name}.onnx").touch()
    assert [(one.file, one.part, bool(one.why_not)) for one in read_folder(folder).files] == [
        ("e.onnx", "decoder embedding", False),
        ("c.onnx", "decoder context", False),
        ("v.onnx", "vision", True),
    ]


def test_links_in_the_folder_lead_to_the_patched_file(tmp_path, atpatch):
    folder = hugging_face(tmp_path / "linked", "versions/2.onnx")
    (folder / "model.onnx").symlink_to("versions/2.onnx")
    run = atpatch("patch", folder, *STATIC, "--json")
    assert [one["file"] for one in run.json["files"]] == ["versions/2.onnx"]
    out = tmp_path / "linked.patched"
    assert os.readlink(out / "model.onnx") == "versions/2.onnx" and "model.onnx" in patched_files(out)


def test_a_snapshot_of_a_hugging_face_cache(tmp_path, atpatch):
    repository = tmp_path / "models--a--b"
    for name in ("blobs", "snapshots/0123"):
        (repository / name).mkdir(parents=True)
    save_external(attention_model(), tmp_path / "model.onnx")
    snapshot_folder = repository / "snapshots/0123"
    (tmp_path / "config.json").write_text("{}")
    for number, path in enumerate(sorted(path for path in tmp_path.iterdir() if path.is_file())):
        path.rename(repository / f"blobs/{number}")
        (snapshot_folder / path.name).symlink_to(f"../../blobs/{number}")
    assert atpatch("inspect", snapshot_folder).code == 0
    assert atpatch("patch", snapshot_folder, "-o", tmp_path / "out", *STATIC).code == 0
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    one, two = (session(path / "model.onnx").run(None, {"x": X})[0] for path in (snapshot_folder, tmp_path / "out"))
    assert not np.allclose(one, two, atol=1e-3)
    # a file next to the links would have data outside of its folder, which onnxruntime refuses
    assert "ATP004" in atpatch("patch", snapshot_folder / "model.onnx", *STATIC).err


def test_a_failure_in_the_second_file_leaves_nothing(tmp_path, atpatch):
    folder = hugging_face(tmp_path / "two", "decoder_model.onnx")
    (folder / "encoder_model.onnx").write_bytes(b"cut")
    assert "ATP001" in atpatch("patch", folder, *STATIC).err
    assert os.listdir(tmp_path) == ["two"]


def test_inspect_shows_each_file(llama, atpatch):
    found = atpatch("inspect", llama, "--json").json
    assert (found["kind"], [(one["file"], len(one["sites"])) for one in found["files"]]) == (
        "genai",
        [("decoder.onnx", 2)],
    )
    assert [one["file"] for one in found["left"]] == ["embed.onnx", "spare.onnx"]
    assert "embed.onnx" in atpatch("inspect", llama).err
    assert atpatch("inspect", llama, "--exclude", ".").code == 3
    assert atpatch("inspect", llama, "--html", "x.html").code == 2


_MEASURED = """
import re, sys, time
from atpatch_onnx import patch
start = time.perf_counter()
patch(sys.argv[1], sys.argv[2], detector="statistic")
print(time.perf_counter() - start, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
def test_fourteen_gigabytes_of_weights_are_not_read(tmp_path):
    """The shape of seven billion parameters in half precision, as a sparse file."""
    width, layers = 4096, 52
    folder = genai(tmp_path / "large", decoder={"filename": "model.onnx"})
    weights = []
    for number, name in enumerate(f"layers.{layer}.{part}" for layer in range(layers) for part in "qkvo"):
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[width, width])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        where = {"location": "model.onnx.data", "offset": number * width**2 * 4, "length": width**2 * 4}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    (folder / "model.onnx").write_bytes(wire(layers, width, 32, 17, weights).SerializeToString())
    with (folder / "model.onnx.data").open("wb") as file:
        file.truncate(len(weights) * width**2 * 4)
    arguments = [sys.executable, "-c", _MEASURED, str(folder), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert (tmp_path / "out/model.onnx.data").stat().st_size > 13.9e9
    assert (tmp_path / "out/model.onnx.data").samefile(folder / "model.onnx.data")
    assert seconds <= 15 and kilobytes <= 1_000_000


def test_unpatch_without_a_patch(llama, tmp_path):
    with pytest.raises(AtpatchError, match="ATP013"):
        unpatch(llama)
    assert os.listdir(tmp_path) == ["llama"]
