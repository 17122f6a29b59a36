"""Every kind of bad input: a code, exit status 2, two lines on stderr, nothing on stdout, nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from ..tiny import attention_model, plain_model, save_external, snapshot
from .hotfixes import hotfix_for

Arguments = list[object]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def valid(folder: Path, **options: int) -> Path:
    onnx.save_model(attention_model(**options), folder / "model.onnx")
    return folder / "model.onnx"


def pointing_to(folder: Path, location: str) -> Path:
    """A model in folder/inner whose weights are said to lie at `location`; the real ones lie in folder."""
    inner = folder / "inner"
    inner.mkdir()
    save_external(attention_model(), folder / "model.onnx")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").unlink()
    return write(inner / "model.onnx", model.SerializeToString())


def other_hotfix(folder: Path, **options: int) -> Path:
    hotfix_for(attention_model(**options), folder).save(folder / "other.hotfix")
    return folder / "other.hotfix"


def symlinked_file(folder: Path) -> Arguments:
    model = pointing_to(folder, "weights.data")
    (model.parent / "weights.data").symlink_to("../weights.data")
    return [model]


def symlinked_folder(folder: Path) -> Arguments:
    model = pointing_to(folder, "sub/weights.data")
    (model.parent / "sub").symlink_to("..")
    return [model]


def missing_data(folder: Path) -> Arguments:
    save_external(attention_model(), folder / "model.onnx")
    (folder / "weights.data").unlink()
    return [folder / "model.onnx"]


def short_data(folder: Path) -> Arguments:
    save_external(attention_model(), folder / "model.onnx")
    with (folder / "weights.data").open("r+b") as file:
        file.truncate(100)
    return [folder / "model.onnx"]


def unknown_input(folder: Path) -> Arguments:
    model = attention_model()
    model.graph.node[0].input[0] = "nowhere"
    return [write(folder / "model.onnx", model.SerializeToString())]


def linked_output(folder: Path) -> Arguments:
    model = valid(folder)
    (folder / "link.onnx").symlink_to("model.onnx")
    return [model, "-o", folder / "link.onnx"]


def damaged_patch(folder: Path) -> Arguments:
    from atpatch_onnx import patch_model

    patched = onnx.load(patch_model(valid(folder), detector="statistic").output)
    for entry in patched.metadata_props:
        if entry.key == "atpatch.undo":
            entry.value = entry.value[:-20]
    return [write(folder / "damaged.onnx", patched.SerializeToString())]


def corrupt_hotfix_beside(folder: Path) -> Arguments:
    write(folder / "model.hotfix", b"\x08\0\0\0\0\0\0\0{}")
    return [valid(folder)]


def truncated_hotfix(folder: Path) -> Arguments:
    model = valid(folder)
    whole = other_hotfix(folder).read_bytes()
    return [model, "--hotfix", write(folder / "short.hotfix", whole[: len(whole) // 2])]


def flipped_hotfix(folder: Path) -> Arguments:
    model = valid(folder)
    content = bytearray(other_hotfix(folder).read_bytes())
    content[-1] ^= 1
    return [model, "--hotfix", write(folder / "flipped.hotfix", bytes(content))]


# id → (code, what to do in an empty folder; returns the arguments of `patch`)
CASES: dict[str, tuple[str, Callable[[Path], Arguments]]] = {
    "not an ONNX file": (
        "ATP001",
        lambda f: [write(f / "model.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")],
    ),
    "empty file": ("ATP001", lambda f: [write(f / "model.onnx", b"")]),
    "truncated file": ("ATP001", lambda f: [write(f / "model.onnx", attention_model().SerializeToString()[:700])]),
    "graph without nodes": (
        "ATP001",
        lambda f: [write(f / "model.onnx", onnx.ModelProto(ir_version=8).SerializeToString())],
    ),
    "missing": ("ATP002", lambda f: [f / "model.onnx"]),
    "directory": ("ATP092", lambda f: [f]),
    "external data missing": ("ATP003", missing_data),
    "external data too short": ("ATP003", short_data),
    "external data at ../x": ("ATP004", lambda f: [pointing_to(f, "../weights.data")]),
    "external data at a/../../x": ("ATP004", lambda f: [pointing_to(f, "a/../../weights.data")]),
    "external data at an absolute path": ("ATP004", lambda f: [pointing_to(f, str(f / "weights.data"))]),
    "external data at a Windows path": ("ATP004", lambda f: [pointing_to(f, "C:\\weights.data")]),
    "external data behind a symlink": ("ATP004", symlinked_file),
    "external data in a symlinked folder": ("ATP004", symlinked_folder),
    "checker rejects it": ("ATP005", unknown_input),
    "opset 6": ("ATP006", lambda f: [valid(f, opset=6)]),
    "opset 10": ("ATP006", lambda f: [valid(f, opset=10)]),
    "filter is no regular expression": ("ATP011", lambda f: [valid(f), "--include", "("]),
    "patch record damaged": ("ATP014", damaged_patch),
    "output is the input": ("ATP016", lambda f: [valid(f), "-o", f / "model.onnx"]),
    "output is the input by another path": ("ATP016", lambda f: [valid(f), "-o", f / "." / "x" / ".." / "model.onnx"]),
    "output is a link to the input": ("ATP016", linked_output),
    "output folder missing": ("ATP019", lambda f: [valid(f), "-o", f / "nowhere" / "out.onnx"]),
    "output is a folder": ("ATP019", lambda f: [valid(f), "-o", f]),
    "hotfix missing": ("ATP002", lambda f: [valid(f), "--hotfix", f / "none.hotfix"]),
    "hotfix is not a hotfix": ("ATP053", lambda f: [valid(f), "--hotfix", write(f / "x.hotfix", b"no hotfix at all")]),
    "hotfix truncated": ("ATP053", truncated_hotfix),
    "hotfix edited": ("ATP053", flipped_hotfix),
    "hotfix beside the model is corrupt": ("ATP053", corrupt_hotfix_beside),
    "hotfix of another structure": ("ATP054", lambda f: [valid(f), "--hotfix", other_hotfix(f, width=16)]),
    "hotfix of other weights": ("ATP054", lambda f: [valid(f), "--hotfix", other_hotfix(f, seed=1)]),
    "static without columns": ("ATP060", lambda f: [valid(f), "--detector", "static"]),
    "columns without static": ("ATP060", lambda f: [valid(f), "--columns", "3"]),
    "negative column": ("ATP060", lambda f: [valid(f), "--detector", "static", "--columns", "-3"]),
    "threshold is no number": ("ATP060", lambda f: [valid(f), "--threshold", "nan"]),
    "negative benign level": ("ATP060", lambda f: [valid(f), "--detector", "statistic", "--benign", "-1"]),
    "nothing is known about it": ("ATP061", lambda f: [valid(f)]),
    "output and --in-place": ("ATP060", lambda f: [valid(f), "-o", f / "out.onnx", "--in-place"]),
}


@pytest.mark.parametrize(("code", "prepare"), CASES.values(), ids=CASES)
def test_patch_refuses(tmp_path, atpatch, code, prepare):
    arguments = prepare(tmp_path)
    before = snapshot(tmp_path)
    run = atpatch("patch", *arguments)
    assert run.code == 2
    assert run.err.startswith(f"error {code}: ")
    assert run.err.splitlines()[1].startswith("  fix: ")
    assert len(run.err.splitlines()) == 2
    assert run.out == ""
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", ["inspect", "unpatch", "extract", "diff"])
@pytest.mark.parametrize(
    "case", ["not an ONNX file", "truncated file", "directory", "external data missing", "external data at ../x"]
)
def test_other_commands_refuse_the_same_files(tmp_path, atpatch, command, case):
    code, prepare = CASES[case]
    (model,) = prepare(tmp_path)
    before = snapshot(tmp_path)
    rest = {"inspect": [], "unpatch": [], "extract": ["site", "-o", tmp_path / "o.onnx"], "diff": [model]}[command]
    run = atpatch(command, model, *rest)
    if case == "directory" and command in ("extract", "diff"):
        code = "ATP002"  # these take no folders of models
    assert (run.code, run.err.split(":")[0], run.out) == (2, f"error {code}", "")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("holder", ["input", "initializer", "node output", "subgraph"])
def test_names_of_ours_in_the_users_model_are_reported(tmp_path, atpatch, holder):
    """Else the patch would define a value twice, or `unpatch` would take the user's own value out."""
    model = attention_model()
    name = "atpatch_threshold" if holder == "input" else "atpatch_mine"
    identity = onnx.helper.make_node("Identity", ["x"], [name])
    if holder == "input":
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))
    elif holder == "initializer":
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), name))
    elif holder == "node output":
        model.graph.node.insert(0, identity)
    else:
        inner = onnx.helper.make_graph([identity], "inner", [], [onnx.helper.make_empty_tensor_value_info(name)])
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "on"))
        model.graph.node.insert(
            0, onnx.helper.make_node("If", ["on"], ["either"], then_branch=inner, else_branch=inner)
        )
    onnx.save_model(model, tmp_path / "model.onnx")
    before = snapshot(tmp_path)
    assert atpatch("inspect", tmp_path / "model.onnx").code == 0
    for more in ([], ["--freeze"]):
        run = atpatch("patch", tmp_path / "model.onnx", "--detector", "statistic", *more)
        assert (run.code, run.err.split(":")[0]) == (2, "error ATP022")
        assert repr(name) in run.err
    assert snapshot(tmp_path) == before


def test_inspect_reads_old_opsets(tmp_path, atpatch):
    """Looking does no harm; only patching needs newer operators."""
    assert atpatch("inspect", valid(tmp_path, opset=10)).code == 0


def test_unpatch_refuses_what_carries_no_patch(model_path, atpatch):
    run = atpatch("unpatch", model_path)
    assert run.code == 2
    assert "ATP013" in run.err


def test_a_hotfix_of_another_model_can_be_forced(tmp_path, atpatch):
    run = atpatch("patch", valid(tmp_path), "--hotfix", other_hotfix(tmp_path, seed=1), "--force", "--json")
    assert (run.code, run.json["detector"]) == (0, "profile")


def test_no_site_exits_with_3_and_writes_nothing(tmp_path, atpatch):
    onnx.save_model(plain_model(), tmp_path / "model.onnx")
    before = snapshot(tmp_path)
    assert atpatch("patch", tmp_path / "model.onnx").code == 3
    assert atpatch("inspect", tmp_path / "model.onnx").code == 3
    assert atpatch("patch", tmp_path / "model.onnx", "--include", "nothing").code == 3
    assert snapshot(tmp_path) == before


def test_usage_errors_exit_with_2(model_path, atpatch):
    for arguments in (
        ["patch"],
        ["patch", model_path, "--gating", "x"],
        ["patch", model_path, "--benign", "x"],
        ["nonsense"],
    ):
        assert atpatch(*arguments).code == 2


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_only_with_debug(tmp_path, debug):
    command = [sys.executable, "-m", "atpatch_onnx", *(["--debug"] if debug else []), "inspect", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ("Traceback" in done.stderr) is debug
    assert done.returncode != 0
    assert "ATP092" in done.stderr
    assert done.stdout == ""


def test_control_characters_of_a_file_never_reach_the_terminal(tmp_path, atpatch):
    model = attention_model()
    model.producer_name = "\x1b[31mred\x07"
    onnx.save_model(model, tmp_path / "model.onnx")
    run = atpatch("inspect", tmp_path / "model.onnx")
    assert run.code == 0
    assert "\x1b" not in run.err
    assert "\x07" not in run.err
    assert "red" in run.err
