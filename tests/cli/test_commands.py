"""The command line: JSON keys, streams, exit codes, and that each command does what it says."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import atpatch_onnx
from atpatch_onnx.cli import COMMANDS, cli
from atpatch_onnx.errors import CATALOG
from rewriters.finding.finder import REASONS
from rewriters.model import io as model_io

from ..exports import export_model
from ..tiny import attention_model, save_external, snapshot
from .hotfixes import hotfix_for

X = np.random.default_rng(1).standard_normal((3, 6, 8)).astype(np.float32)


def run(path, **feeds) -> list[np.ndarray]:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X, **feeds})


# inspect


def test_inspect_json_keys(model_path, atpatch):
    report = atpatch("inspect", model_path, "--json")
    assert report.code == 0
    found = report.json
    assert set(found) == {"model", "sites", "rejected"}
    assert found["model"] == {
        "path": str(model_path), "opset": 17, "ir_version": 8, "producer": "tiny 1", "nodes": 32, "external_data": [],
    }  # fmt: skip
    assert [set(site) for site in found["sites"]] == [
        {"id", "softmax", "matmul", "form", "heads", "query_axis", "key_axis", "operand", "confidence", "scope"}
    ] * 2
    assert [(site["softmax"], site["matmul"], site["heads"]) for site in found["sites"]] == [
        ("/layers/0/Softmax", "/layers/0/context", 2),
        ("/layers/1/Softmax", "/layers/1/context", 2),
    ]


def test_inspect_lists_rejections_with_a_known_code(tmp_path, atpatch):
    model = attention_model()
    model.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["probabilities"], name="head"))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["b", "s", 8])
    )
    onnx.save_model(model, tmp_path / "m.onnx")
    (rejected,) = atpatch("inspect", tmp_path / "m.onnx", "--json").json["rejected"]
    assert set(rejected) == {"softmax", "code", "reason"}
    assert rejected["softmax"] == "head"
    assert rejected["code"] in REASONS
    people = atpatch("inspect", tmp_path / "m.onnx")
    assert people.out == ""
    assert rejected["reason"] in people.err


@pytest.mark.parametrize(("options", "expected"), [
    (["--include", "0"], [0]),
    (["--exclude", "0"], [1]),
    (["--include", r"\d", "--exclude", "1"], [0]),
])  # fmt: skip
def test_filters_choose_sites(model_path, atpatch, options, expected):
    ids = [site["id"] for site in atpatch("inspect", model_path, "--json").json["sites"]]
    chosen = [ids[index] for index in expected]
    assert [site["id"] for site in atpatch("inspect", model_path, "--json", *options).json["sites"]] == chosen
    assert atpatch("patch", model_path, "--json", "--detector", "statistic", *options).json["sites"] == chosen


def test_inspect_of_a_patched_model_shows_the_original(model_path, atpatch):
    original = atpatch("inspect", model_path, "--json").json
    output = atpatch("patch", model_path, "--detector", "statistic", "--json").json["output"]
    patched = atpatch("inspect", output, "--json").json
    assert patched["sites"] == original["sites"]
    assert patched["model"]["patch"]["detector"] == "statistic"


# patch and unpatch


def test_patch_json_keys_and_default_output(model_path, atpatch):
    report = atpatch("patch", model_path, "--detector", "statistic", "--json")
    done = report.json
    assert set(done) == {"output", "sites", "detector", "gating", "nodes_before", "nodes_after", "seconds"} | {
        "calibration"
    }
    assert done["output"] == str(model_path.with_name("model.patched.onnx"))
    assert (done["detector"], done["gating"], done["nodes_before"]) == ("statistic", "if", 32)
    assert done["nodes_after"] > 32
    assert report.err == ""


@pytest.mark.parametrize("gating", ["if", "none"])
def test_the_silent_patch_is_bit_identical(model_path, atpatch, gating):
    done = atpatch("patch", model_path, "--detector", "static", "--columns", "none", "--gating", gating, "--json").json
    assert done["gating"] == gating
    assert np.array_equal(run(done["output"])[0], run(model_path)[0])


def test_a_firing_patch_changes_the_output_and_can_be_switched_off(model_path, atpatch):
    output = atpatch("patch", model_path, "--detector", "static", "--columns", "1,3", "--json").json["output"]
    original = run(model_path)[0]
    assert not np.allclose(run(output)[0], original)
    assert np.array_equal(run(output, atpatch_enabled=np.array(False))[0], original)


def test_benign_level_and_values_reach_the_graph(model_path, tmp_path, atpatch):
    variants = {}
    for benign in ("zero", "mean", "0.5"):
        for values in ("benign", "own"):
            output = tmp_path / f"{benign}-{values}.onnx"
            options = ["--benign", benign, "--values", values, "-o", output]
            assert atpatch("patch", model_path, "--detector", "static", "--columns", "2", *options).code == 0
            variants[benign, values] = run(output)[0]
    # With no benign attention at all the benign value does not matter; otherwise every variant differs.
    np.testing.assert_allclose(variants["zero", "own"], variants["zero", "benign"], atol=1e-6)
    distinct = [variants[key] for key in variants if key != ("zero", "own")]
    assert all(not np.allclose(a, b) for i, a in enumerate(distinct) for b in distinct[:i])


@pytest.mark.parametrize(
    ("options", "gating"), [([], "if"), (["--target", "cuda"], "none"), (["--target", "cuda", "--gating", "if"], "if")]
)
def test_target_chooses_the_gating(model_path, atpatch, options, gating):
    done = atpatch("patch", model_path, "--detector", "statistic", "--json", *options).json
    assert done["gating"] == gating
    has_if = any(node.op_type == "If" for node in onnx.load(done["output"]).graph.node)
    assert has_if is (gating == "if")


def test_telemetry_and_freeze(model_path, atpatch):
    options = ["--detector", "static", "--columns", "1", "--telemetry", "--freeze"]
    session = ort.InferenceSession(atpatch("patch", model_path, "--json", *options).json["output"])
    assert [value.name for value in session.get_inputs()] == ["x"]
    assert session.get_overridable_initializers() == []
    flagged = session.run(["atpatch_flagged"], {"x": X})[0]
    assert flagged.shape == (3, 2)
    assert flagged.all()


def test_threshold_is_the_default_of_the_runtime_control(model_path, atpatch):
    output = atpatch("patch", model_path, "--detector", "statistic", "--threshold", "3.5", "--json").json["output"]
    (tensor,) = [t for t in onnx.load(output).graph.initializer if t.name == "atpatch_threshold"]
    assert onnx.numpy_helper.to_array(tensor) == np.float32(3.5)


def test_a_users_detector_is_spliced_in(model_path, tmp_path, atpatch):
    """Scores: the mean over heads and rows; threshold below them flags every column."""
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("ReduceMean", ["maps"], ["scores"], axes=[1, 2], keepdims=0)
    graph = onnx.helper.make_graph(
        [node], "d", [value("maps", 1, ["b", "h", "q", "k"])], [value("scores", 1, ["b", "k"])]
    )
    detector = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(detector, tmp_path / "detector.onnx")
    options = ["--detector", "onnx", "--detector-model", tmp_path / "detector.onnx", "--telemetry", "--threshold"]
    for threshold, expected in ((-1.0, True), (2.0, False)):
        done = atpatch("patch", model_path, *options, threshold, "--json").json
        assert done["detector"] == "onnx"
        session = ort.InferenceSession(done["output"])
        assert (session.run(["atpatch_flagged"], {"x": X})[0] == expected).all()


def test_hotfix_order(model_path, tmp_path, atpatch):
    """--hotfix, else --detector, else <model>.hotfix next to the model; else see `test_patch_without_hotfix`."""
    hotfix = hotfix_for(onnx.load(model_path), tmp_path)
    assert "ATP061" in atpatch("patch", model_path).err
    hotfix.save(tmp_path / "elsewhere.hotfix")
    assert (
        atpatch("patch", model_path, "--json", "--hotfix", tmp_path / "elsewhere.hotfix").json["detector"] == "profile"
    )
    hotfix.save(tmp_path / "model.hotfix")
    beside = atpatch("patch", model_path, "--json")
    assert (beside.json["detector"], beside.err) == ("profile", "")
    assert atpatch("patch", model_path, "--json", "--detector", "statistic").json["detector"] == "statistic"
    both = atpatch("patch", model_path, "--hotfix", tmp_path / "model.hotfix", "--detector", "statistic")
    assert both.code == 2


def test_a_patched_model_is_repatched_not_stacked(model_path, tmp_path, atpatch):
    first = atpatch("patch", model_path, "--detector", "statistic", "--json").json
    again = atpatch("patch", first["output"], "--detector", "statistic", "-o", tmp_path / "again.onnx", "--json").json
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.patched.onnx").read_bytes()
    assert (again["nodes_before"], again["nodes_after"]) == (first["nodes_before"], first["nodes_after"])


def test_in_place_and_back(model_path, atpatch):
    before = model_path.read_bytes()
    assert atpatch("patch", model_path, "--detector", "statistic", "--in-place").code == 0
    assert model_path.read_bytes() != before
    assert atpatch("unpatch", model_path, "--in-place").code == 0
    assert model_io.load(model_path) == onnx.load_model_from_string(before)
    assert list(snapshot(model_path.parent)) == ["model.onnx"]


def test_unpatch_json(model_path, atpatch):
    output = atpatch("patch", model_path, "--detector", "statistic", "--json").json["output"]
    done = atpatch("unpatch", output, "--json").json
    assert done["output"] == str(model_path.with_name("model.unpatched.onnx"))
    assert done["digest"] == model_io.digest(model_io.load(model_path))
    assert model_io.load(done["output"]) == model_io.load(model_path)


def test_patch_and_run_with_external_data(tmp_path, atpatch):
    save_external(attention_model(), tmp_path / "model.onnx")
    output = atpatch("patch", tmp_path / "model.onnx", "--detector", "static", "--columns", "none", "--json").json[
        "output"
    ]
    assert np.array_equal(run(output)[0], run(tmp_path / "model.onnx")[0])
    assert list(snapshot(tmp_path)) == ["model.onnx", "model.patched.onnx", "weights.data"]


# diff


def test_diff_of_equal_models(model_path, atpatch):
    report = atpatch("diff", model_path, model_path, "--json")
    assert (report.code, report.json) == (0, {"identical": True, "sites": {}, "changes": []})


def test_diff_of_a_patch(model_path, atpatch):
    done = atpatch("patch", model_path, "--detector", "statistic", "--json").json
    report = atpatch("diff", model_path, done["output"], "--json")
    assert report.code == 1
    changes = report.json["changes"]
    replaced = [c for c in changes if c["what"] == "node" and c["status"] == "changed"]
    assert [(c["before"], c["after"], c["site"]) for c in replaced] == [
        ("MatMul", "If", site) for site in done["sites"]
    ]
    assert set(report.json["sites"]) == set(done["sites"])
    added = sum(counts["added"] for counts in report.json["sites"].values())
    assert added == done["nodes_after"] - done["nodes_before"]
    assert {c["name"] for c in changes if c["what"] == "input"} == {"atpatch_enabled", "atpatch_threshold"}
    assert "atpatch.undo" in {c["name"] for c in changes if c["what"] == "metadata"}
    assert not [c for c in changes if c["status"] == "removed"]
    people = atpatch("diff", model_path, done["output"])
    assert (people.code, people.out) == (1, "")


@pytest.mark.parametrize(("edit", "expected"), [
    (lambda m: m.graph.node[0].attribute.add(name="a", i=1, type=2), ("changed", "node", "/layers/0/q_flat")),
    (lambda m: m.graph.node.pop(), ("removed", "node", "/y")),
    (lambda m: m.metadata_props.add(key="k", value="v"), ("added", "metadata", "k")),
    (lambda m: m.opset_import.add(domain="d", version=1), ("added", "field", "opset d")),
    (lambda m: setattr(m, "ir_version", 9), ("changed", "field", "ir_version")),
    (lambda m: m.graph.initializer[0].dims.append(1), ("changed", "initializer", "layers.0.q")),
    (lambda m: m.graph.input.add(name="extra"), ("added", "input", "extra")),
])  # fmt: skip
def test_diff_finds_one_change(edit, expected):
    changed = attention_model()
    edit(changed)
    found = atpatch_onnx.diff_models(attention_model(), changed)
    assert [(c.status, c.what, c.name) for c in found.changes] == [expected]
    assert not found.identical


def test_diff_sees_another_order():
    changed = attention_model()
    first, second = changed.graph.initializer[0], changed.graph.initializer[1]
    tensors = [second, first, *changed.graph.initializer[2:]]
    swapped = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(swapped)
    found = atpatch_onnx.diff_models(attention_model(), changed)
    assert (found.identical, found.changes) == (False, ())


# extract


def test_extract_gives_a_model_that_runs_and_has_the_site(model_path, tmp_path, atpatch):
    site = atpatch("inspect", model_path, "--json").json["sites"][1]["id"]
    done = atpatch("extract", model_path, site, "-o", tmp_path / "site.onnx", "--json").json
    part = onnx.load(done["output"])
    assert done["nodes"] == len(part.graph.node) < 32
    assert len(atpatch("inspect", done["output"], "--json").json["sites"]) == 1
    session = ort.InferenceSession(done["output"])
    feeds = {
        v.name: np.ones([d if isinstance(d, int) else 2 for d in v.shape], np.float32) for v in session.get_inputs()
    }
    assert np.isfinite(session.run(None, feeds)[0]).all()


def test_extract_of_an_unknown_site(model_path, tmp_path, atpatch):
    report = atpatch("extract", model_path, "nope", "-o", tmp_path / "site.onnx")
    assert report.code == 2
    assert "ATP058" in report.err
    assert list(snapshot(tmp_path)) == ["model.onnx"]


# doctor, explain, help


def test_doctor(atpatch):
    found = atpatch("doctor", "--json").json
    assert set(found) == {"python", "platform", "packages", "providers", "commands", "problems", "extras"}
    assert found["packages"]["onnx"] == onnx.__version__
    assert "CPUExecutionProvider" in found["providers"]
    assert set(found["commands"]) == set(COMMANDS)
    assert found["commands"]["patch"] == {"ready": True, "missing": [], "pip": None}
    people = atpatch("doctor")
    assert people.out == ""
    assert onnx.__version__ in people.err


def test_doctor_and_session_without_onnxruntime():
    """Run in a process that cannot import it: patching works, running says what to install."""
    script = """
import sys
sys.modules["onnxruntime"] = None
import atpatch_onnx
print(atpatch_onnx.examine().providers)
try:
    atpatch_onnx.session("model.onnx")
except atpatch_onnx.AtpatchError as error:
    print(error.code, error.fix)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["()", f"ATP050 {CATALOG['ATP050'].fix}"]
    assert "pip install" in CATALOG["ATP050"].fix


@pytest.mark.parametrize("code", sorted(CATALOG))
def test_explain_every_error_code(atpatch, code):
    report = atpatch("explain", code.lower())
    assert report.code == 0
    assert CATALOG[code].detail in report.out


@pytest.mark.parametrize("code", sorted(REASONS))
def test_explain_every_rejection_code(atpatch, code):
    assert REASONS[code] in atpatch("explain", code).out


def test_explain_lists_all_and_refuses_unknown_codes(atpatch):
    everything = atpatch("explain").out
    assert all(code in everything for code in [*CATALOG, *REASONS])
    assert atpatch("explain", "ATP999").code == 2


def test_every_command_has_help_with_an_example(atpatch):
    listed = cli.list_commands(None)  # type: ignore[arg-type]
    assert set(listed) <= set(COMMANDS)
    for name in listed:
        report = atpatch(name, "--help")
        assert report.code == 0
        assert f"Example:\n    atpatch-onnx {name}" in report.out


def test_help_is_quick_and_loads_nothing_heavy():
    script = """
import sys
from click.testing import CliRunner
from atpatch_onnx.cli import cli
assert CliRunner().invoke(cli, ["--help"]).exit_code == 0
print([name for name in ("torch", "onnxruntime", "onnx", "numpy", "rich") if name in sys.modules])
"""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 5


def test_only_json_is_on_stdout(tmp_path):
    text = str(export_model("bert", "dynamo").path)
    command = [sys.executable, "-m", "atpatch_onnx", "patch", text, "-o", str(tmp_path / "p.onnx")]
    command += ["--calibrate", "none", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["sites"]
    assert "nothing was fitted" in done.stderr


# The package


def test_public_names_resolve():
    for name in atpatch_onnx.__all__:
        assert getattr(atpatch_onnx, name) is not None
    with pytest.raises(AttributeError):
        atpatch_onnx.nonsense  # noqa: B018


def test_no_module_shares_a_name_with_what_is_public():
    """Importing such a module would hide the function."""
    modules = {module.name for module in pkgutil.iter_modules(atpatch_onnx.__path__)}
    assert not modules & set(atpatch_onnx.__all__)
