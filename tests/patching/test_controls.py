"""`patch --controls` and `--portable`: what a session has to be fed, and what is said where optional controls cannot
work.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from atpatch_onnx import AtpatchError, bench, compare, patch_model
from atpatch_onnx.deploy.models import load_arms
from atpatch_onnx.inference.controls import required_controls
from atpatch_onnx.inference.sessions import session
from rewriters.editing.patcher import stamp

from ..benchmark.case import token_model
from ..comparison.case import classifier, rows
from ..tiny import attention_model

X = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
CONTROLS = ["atpatch_enabled", "atpatch_threshold"]


def old_model() -> onnx.ModelProto:
    """IR version 3: every initializer is an input too."""
    model = attention_model(layers=2, opset=12)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


@pytest.fixture
def old_path(tmp_path):
    onnx.save_model(old_model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    ("options", "required", "optional"),
    [
        ([], [], CONTROLS),
        (["--controls", "optional"], [], CONTROLS),
        (["--controls", "required"], CONTROLS, []),
        (["--controls", "none"], [], []),
        (["--freeze"], [], []),
        (["--portable"], [], []),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_the_inputs_of_each_form(model_path, atpatch, options, required, optional):
    done = atpatch("patch", model_path, "--json", "--detector", "static", "--columns", "1", *options).json
    live = session(done["output"])
    assert [value.name for value in live.get_inputs()] == ["x", *required]
    assert [value.name for value in live.get_overridable_initializers()] == optional
    steer = {name: array for name, array in (("atpatch_enabled", np.array(False)),) if name in {*required, *optional}}
    fed = {"x": X, **required_controls(live)}
    before = session(model_path).run(None, {"x": X})[0]
    assert not np.allclose(live.run(None, fed)[0], before, atol=1e-3)
    if steer:
        assert live.run(None, {**fed, **steer})[0].tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--freeze", "--controls", "required"], "--freeze"),
        (["--portable", "--controls", "optional"], "--portable"),
        (["--portable", "--gating", "if"], "branch-free"),
    ],
)
def test_contradictions_are_refused(model_path, atpatch, options, words):
    run = atpatch("patch", model_path, "--detector", "statistic", *options)
    assert run.code == 2 and "ATP060" in run.err and words in run.err


def test_a_portable_patch_has_no_branch_and_no_cast_to_float(model_path, atpatch):
    patched = onnx.load(atpatch("patch", model_path, "--portable", "--json", "--detector", "statistic").json["output"])
    casts = [onnx.helper.get_node_attr_value(node, "to") for node in patched.graph.node if node.op_type == "Cast"]
    assert onnx.TensorProto.FLOAT not in casts
    assert all(
        attribute.type != onnx.AttributeProto.GRAPH for node in patched.graph.node for attribute in node.attribute
    )
    assert (stamp(patched)["gating"], stamp(patched)["controls"]) == ("none", "none")


def test_below_ir_version_4_there_are_none_and_a_note_says_so(old_path, atpatch):
    run = atpatch("patch", old_path, "--detector", "static", "--columns", "1")
    assert run.code == 0 and "IR version 3" in run.err and "--controls required" in run.err
    live = session(old_path.with_name("model.patched.onnx"))
    assert not {value.name for value in (*live.get_inputs(), *live.get_overridable_initializers())} & {*CONTROLS}
    assert [value.name for value in live.get_inputs()] == [value.name for value in session(old_path).get_inputs()]
    for options in (["--controls", "none"], ["--controls", "required"]):
        assert "IR version" not in atpatch("patch", old_path, "--detector", "static", "--columns", "1", *options).err


def test_required_controls_work_below_ir_version_4(old_path):
    patch_model(old_path, detector="static", columns=(1,), controls="required")
    live = session(old_path.with_name("model.patched.onnx"))
    fed = {"x": X, **required_controls(live), "atpatch_enabled": np.array(False)}
    assert live.run(None, fed)[0].tobytes() == session(old_path).run(None, {"x": X})[0].tobytes()


@pytest.mark.parametrize(("controls", "said"), [("optional", True), ("required", False), ("none", False)])
def test_a_note_where_genai_would_ignore_them(model_path, atpatch, controls, said):
    (model_path.parent / "genai_config.json").write_text("{}")
    run = atpatch("patch", model_path, "--detector", "static", "--columns", "1", "--controls", controls)
    assert run.code == 0 and ("onnxruntime-genai ignores" in run.err) is said


def test_compare_feeds_required_controls(tmp_path):
    paths = {}
    for controls in ("optional", "required"):
        paths[controls] = tmp_path / f"{controls}.onnx"
        onnx.save_model(
            patch_model(classifier(), detector="statistic", threshold=1.2, controls=controls), paths[controls]
        )
    found = compare(
        classifier(),
        paths["optional"],
        {"x": rows(20)},
        also={"required": paths["required"]},
        threads=1,
        seconds=0,
        exemplar=False,
    )
    one, two = (found.outputs[name]["clean"] for name in ("patched", "required"))
    assert one.scores.tobytes() == two.scores.tobytes() and one.flags.any() and np.array_equal(one.flags, two.flags)


def test_bench_feeds_required_controls(tmp_path):
    onnx.save_model(token_model(), tmp_path / "model.onnx")
    patch_model(tmp_path / "model.onnx", tmp_path / "p.onnx", detector="statistic", controls="required")
    found = bench(
        tmp_path / "model.onnx",
        tmp_path / "p.onnx",
        shapes=[{"batch": 4, "sequence": 12}],
        pairs=6,
        seconds=0.05,
        rounds=1,
    )
    assert [one.kind for one in found.timed] == ["clean", "flagged"]


def test_without_the_stamp_the_default_of_a_required_threshold_is_not_known(model_path):
    patched = patch_model(onnx.load(model_path), detector="statistic", threshold=3.5, controls="required")
    assert required_controls(session(patched))["atpatch_threshold"] == np.float32(3.5)
    del patched.metadata_props[:]
    with pytest.raises(AtpatchError) as caught:
        required_controls(session(patched))
    assert caught.value.code == "ATP052" and "stamp" in caught.value.what


def test_deploy_says_how_clients_need_not_know_of_the_patch(model_path):
    patch_model(model_path, detector="statistic", controls="required")
    with pytest.raises(AtpatchError) as caught:
        load_arms(model_path, model_path.with_name("model.patched.onnx"))
    assert caught.value.code == "ATP075" and "--controls optional" in caught.value.fix


def test_onnxscript_keeps_the_defaults(model_path, atpatch):
    """Its optimizer takes the default of an If's condition for a constant,
    and then leaves an input without a default.
    """
    from onnxscript import optimizer

    output = atpatch("patch", model_path, "--json", "--detector", "static", "--columns", "1").json["output"]
    live = ort.InferenceSession(
        optimizer.optimize(onnx.load(output)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert [value.name for value in live.get_inputs()] == ["x"]
    before, patched = session(model_path).run(None, {"x": X})[0], session(output).run(None, {"x": X})[0]
    np.testing.assert_allclose(live.run(None, {"x": X})[0], patched, atol=1e-6)
    np.testing.assert_allclose(live.run(None, {"x": X, "atpatch_enabled": np.array(False)})[0], before, atol=1e-6)
