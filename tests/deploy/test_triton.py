"""The Triton repository: layout by Triton's user guide, configuration by Triton's own protobuf,
models that still run.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper

from atpatch_onnx.deploy.model_config import model_config_class
from atpatch_onnx.deploy.triton import deploy_triton
from atpatch_onnx.errors import AtpatchError
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.plan import Alarm, AlarmLayer, PatchPlan, SitePlan, Static

from .layout import check_layout, parse

X = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)


def tritons_own() -> ModuleType:
    """`model_config_pb2` of Triton's client library, without the rest of it, which wants gRPC."""
    package = importlib.util.find_spec("tritonclient")
    if package is None:
        pytest.skip("tritonclient is not installed")
    path = Path(next(iter(package.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(path: Path) -> list[np.ndarray]:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["y"], {"x": X})


def test_the_layout_is_tritons(arms, tmp_path):
    done = deploy_triton(*arms, tmp_path / "repository", name="fraud")
    found = check_layout(done.folder)
    assert set(found) == {"fraud", "fraud-patched"}
    for mine, source in zip(("fraud", "fraud-patched"), arms, strict=True):
        # opset, IR version and everything else stay what they are
        assert found[mine].read_bytes() == source.read_bytes()


def test_external_data_makes_a_folder_that_still_runs(large_arms, tmp_path):
    done = deploy_triton(*large_arms, tmp_path / "repository")
    found = check_layout(done.folder)
    for name, source in zip(("model", "model-patched"), large_arms, strict=True):
        assert found[name] == done.folder / name / "1" / "model.onnx" / "model.onnx"
        assert (found[name].parent / "data" / "weights.bin").is_file()
        assert np.array_equal(run(found[name]), run(source))
        assert np.isfinite(run(found[name])).all()


def test_the_configuration(arms, tmp_path):
    deploy_triton(*arms, tmp_path / "r", max_batch=16, delay_us=500, instances=3, threads=2)
    config = parse(tmp_path / "r" / "model" / "config.pbtxt")
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, 2)
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    (given,) = config.input
    assert (given.name, given.data_type, list(given.dims)) == ("x", 11, [-1, 8])
    # Controls have defaults in the graph, and flagged columns may count windows: neither is in the configuration.
    patched = parse(tmp_path / "r" / "model-patched" / "config.pbtxt")
    assert [value.name for value in patched.input] == ["x"]
    assert [value.name for value in patched.output] == ["y", "atpatch_flagged"]
    session = ort.InferenceSession(str(arms[1]), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["x"]


def test_the_alarm_of_a_hotfix_is_an_output_for_clients(arms, tmp_path):
    model = onnx.load(arms[0])
    sites = find_sites(model)[0]
    alarm = Alarm((AlarmLayer(sites[0].id, np.ones(8, np.float32)),))
    patched = patch(model, PatchPlan({sites[0].id: SitePlan(Static())}, alarm=alarm), sites)
    onnx.save_model(patched, tmp_path / "patched.onnx")
    deploy_triton(arms[0], tmp_path / "patched.onnx", tmp_path / "r")
    outputs = parse(tmp_path / "r" / "model-patched" / "config.pbtxt").output
    assert [value.name for value in outputs][1:] == ["atpatch_alarm", "atpatch_alarm_score"]


def test_gpu_and_no_batching(arms, tmp_path):
    deploy_triton(*arms, tmp_path / "r", max_batch=0, gpu=True)
    config = parse(tmp_path / "r" / "model" / "config.pbtxt")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [-1, -1, 8]
    assert config.instance_group[0].kind == 1


def test_a_fixed_batch_is_not_batched_by_triton(tmp_path):
    for name in ("a", "b"):
        save_scorer(tmp_path / f"{name}.onnx", [2, 4], [2])
    done = deploy_triton(tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "r")
    config = parse(tmp_path / "r" / "model" / "config.pbtxt")
    assert config.max_batch_size == 0
    assert [list(value.dims) for value in (*config.input, *config.output)] == [[2, 4], [2]]
    assert any("no batching" in note for note in done.notes)


def test_one_number_a_sample_is_reshaped(tmp_path):
    for name in ("a", "b"):
        save_scorer(tmp_path / f"{name}.onnx", ["n", 4], ["n"])
    deploy_triton(tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "r")
    (output,) = parse(tmp_path / "r" / "model" / "config.pbtxt").output
    assert list(output.dims) == [1]
    assert output.HasField("reshape")
    assert list(output.reshape.shape) == []


def save_scorer(path: Path, given: list, got: list) -> None:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    axes = onnx.numpy_helper.from_array(np.array([1], np.int64), "axes")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, given)], [value("y", TensorProto.FLOAT, got)], [axes]
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_field_numbers_are_those_of_tritons_client(arms):
    own = tritons_own().DESCRIPTOR

    def compare(mine: Any, theirs: Any) -> None:
        assert mine.full_name == theirs.full_name
        for field in mine.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (
                other.number,
                other.type,
                other.is_repeated,
            ), field.full_name
            if field.message_type:
                assert field.message_type.full_name == other.message_type.full_name
            if field.enum_type:
                numbers = {value.name: value.number for value in other.enum_type.values}
                assert {value.name: value.number for value in field.enum_type.values} == numbers
            if field.containing_oneof:
                assert field.containing_oneof.name == other.containing_oneof.name
            if field.message_type:
                compare(field.message_type, other.message_type)

    compare(model_config_class().DESCRIPTOR, own.message_types_by_name["ModelConfig"])


@pytest.mark.parametrize("options", [{}, {"max_batch": 0}, {"gpu": True}])
def test_tritons_client_parses_it(arms, tmp_path, options):
    own = tritons_own().ModelConfig
    deploy_triton(*arms, tmp_path / "r", **options)
    for name in ("model", "model-patched"):
        text = (tmp_path / "r" / name / "config.pbtxt").read_text("utf-8")
        theirs, mine = text_format.Parse(text, own()), text_format.Parse(text, model_config_class()())
        assert theirs.SerializeToString(deterministic=True) == mine.SerializeToString(deterministic=True)


def test_models_that_cannot_stand_in_for_each_other_are_refused(arms, tmp_path):
    save_scorer(tmp_path / "other.onnx", ["n", 4], ["n"])
    with pytest.raises(AtpatchError) as caught:
        deploy_triton(arms[0], tmp_path / "other.onnx", tmp_path / "r")
    assert caught.value.code == "ATP075"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", ["", "Model", "1st", "a/b", "..", "a" * 41, "x_y", "a-"])
def test_names_are_checked(arms, tmp_path, name):
    with pytest.raises(AtpatchError) as caught:
        deploy_triton(*arms, tmp_path / "r", name=name)
    assert caught.value.code == "ATP091"


def test_the_command(arms, tmp_path, atpatch):
    done = atpatch("deploy", "triton", *arms, tmp_path / "r")
    assert (done.code, done.out) == (0, "")
    assert "tritonserver --model-repository=/models" in done.err
    found = atpatch("deploy", "triton", *arms, tmp_path / "r", "--json").json
    assert set(found) == {"folder", "files", "notes", "commands"}
    assert "model/config.pbtxt" in found["files"]
    assert json.loads((tmp_path / "r" / ".atpatch-deploy.json").read_text())["files"] == found["files"]
