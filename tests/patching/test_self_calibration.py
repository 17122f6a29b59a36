"""`patch` without a hotfix calibrates the model: on random tokens, or on the rows that are given."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from atpatch_onnx import Hotfix, patch
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.hotfix.options import PatchOptions
from atpatch_onnx.inference.special_tokens import SpecialTokens
from atpatch_onnx.patching.random_texts import LENGTHS, draw_texts, rows_of
from rewriters.finding.finder import find_sites
from rewriters.finding.token_inputs import token_inputs

from ..exports import export_model
from ..rewriters.encoders import encoder
from ..rewriters.graphs import session
from ..tiny import attention_model

FEW = {"calibration_rows": 80}
ENDS = SpecialTokens((2,), (3,), 1, frozenset((0, 1, 2, 3)), "tokenizer.json")


@pytest.fixture(scope="module")
def bert():
    return export_model("bert", "dynamo").path


def test_a_text_encoder_is_calibrated_on_random_tokens(bert, tmp_path, atpatch):
    kept = tmp_path / "kept.hotfix"
    run = atpatch(
        *("patch", bert, "-o", tmp_path / "p.onnx", "--calibration-rows", 80, "--save-hotfix", kept, "--telemetry"),
        "--json",
    )
    assert (run.code, run.json["detector"]) == (0, "oneclass")
    calibration = run.json["calibration"]
    assert (calibration["source"], calibration["rows"]) == ("noise", 80)
    assert 0 <= calibration["clean_flagged"] <= 1 and calibration["seconds"] > 0
    assert len(run.err.splitlines()) == 1 and "80 texts of random tokens" in run.err
    again = atpatch("patch", bert, "-o", tmp_path / "q.onnx", "--hotfix", kept, "--telemetry", "--json")
    assert (again.code, again.json["calibration"], again.err) == (0, None, "")
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()
    session(onnx.load(tmp_path / "p.onnx"))


def classifier(encoder: onnx.ModelProto, classes: int = 3, axis: int | str = 3) -> onnx.ModelProto:
    """The encoder with scores of classes, made of its first token's state. axis: how many the graph says."""
    state = encoder.graph.output[0].name
    weights = np.random.default_rng(1).normal(size=(32, classes)).astype(np.float32)
    for name, value in (("first", np.array(0)), ("head", weights)):
        encoder.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    encoder.graph.node.append(onnx.helper.make_node("Gather", [state, "first"], ["pooled"], axis=1))
    encoder.graph.node.append(onnx.helper.make_node("MatMul", ["pooled", "head"], ["logits"]))
    del encoder.graph.output[:]
    encoder.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", axis]))
    return encoder


def test_random_tokens_tell_how_sure_an_answer_has_to_be_and_how_scores_grow(bert, tmp_path):
    onnx.save_model(classifier(onnx.load(bert)), tmp_path / "model.onnx")
    patched = patch(tmp_path / "model.onnx", calibration_rows=250, save_hotfix=tmp_path / "kept.hotfix")
    hotfix = Hotfix.load(tmp_path / "kept.hotfix")
    assert hotfix.accept == "flip" and patched.calibration.rows == 250
    names = {site.plan.detector.kind: site.plan.detector for site in hotfix.sites}
    assert names["oneclass"].fits_lengths
    model = onnx.load(tmp_path / "model.onnx")  # one random text of a hundred is surer than the margin
    inputs = token_inputs(model, find_sites(model)[0])
    texts = draw_texts(200, inputs.vocabulary, SpecialTokens(), 30, np.random.default_rng(9))
    scores = np.sort(session(model).run(["logits"], rows_of(texts, inputs, model, 0))[0], 1)
    assert 0.85 < (scores[:, -1] - scores[:, -2] < hotfix.margin).mean() <= 1


def test_an_embedding_has_no_margin(bert, tmp_path):
    patch(bert, tmp_path / "p.onnx", save_hotfix=tmp_path / "kept.hotfix", **FEW)
    hotfix = Hotfix.load(tmp_path / "kept.hotfix")
    assert (hotfix.margin, hotfix.accept) == (0, "always")


@pytest.mark.parametrize("axis", [1, "classes"])
def test_a_single_score_has_no_margin_whatever_the_graph_says(axis, bert, tmp_path):
    onnx.save_model(classifier(onnx.load(bert), 1, axis), tmp_path / "model.onnx")
    patch(tmp_path / "model.onnx", tmp_path / "p.onnx", save_hotfix=tmp_path / "kept.hotfix", **FEW)
    hotfix = Hotfix.load(tmp_path / "kept.hotfix")
    assert hotfix.margin == 0
    assert axis != 1 or hotfix.accept == "always"  # the only class is always the highest


def test_where_every_flag_changes_the_answer_no_random_text_is_flagged(bert, tmp_path):
    """The same encoder with class scores, whose second answers are compared, has a lower threshold."""
    onnx.save_model(classifier(onnx.load(bert)), tmp_path / "model.onnx")
    bars = []
    for model, asked in [(tmp_path / "model.onnx", {}), (bert, {}), (tmp_path / "model.onnx", {"passes": "one"})]:
        patch(model, tmp_path / "p.onnx", calibration_rows=700, save_hotfix=tmp_path / "kept.hotfix", **asked)
        bars.append(Hotfix.load(tmp_path / "kept.hotfix").threshold)
    assert min(bars[1:]) > 1.01 * bars[0]


def test_the_same_model_gives_the_same_patch():
    model = encoder()
    assert patch(model, **FEW) == patch(model, **FEW)


def test_a_hotfix_next_to_the_model_is_used_unless_a_calibration_is_asked_for(tmp_path):
    onnx.save_model(encoder(), tmp_path / "model.onnx")
    first = patch(tmp_path / "model.onnx", save_hotfix=tmp_path / "model.hotfix", **FEW)
    assert first.calibration is not None and first.hotfix is None
    beside = patch(tmp_path / "model.onnx")
    assert (beside.calibration, beside.hotfix) == (None, str(tmp_path / "model.hotfix"))
    anew = patch(tmp_path / "model.onnx", calibrate="noise", **FEW)
    assert anew.calibration is not None and anew.calibration.source == "noise"


@pytest.mark.parametrize("given", [{"hotfix": "m.hotfix"}, {"detector": "statistic"}])
@pytest.mark.parametrize("option", [{"calibrate": "noise"}, {"save_hotfix": "kept.hotfix"}])
def test_nothing_is_calibrated_next_to_a_hotfix_or_a_detector(given, option):
    with pytest.raises(AtpatchError) as caught:
        PatchOptions(**given, **option)
    assert caught.value.code == "ATP060"


def test_a_failed_patch_leaves_no_hotfix(tmp_path):
    onnx.save_model(attention_model(), tmp_path / "model.onnx")
    with pytest.raises(AtpatchError) as caught:
        patch(tmp_path / "model.onnx", save_hotfix=tmp_path / "kept.hotfix")
    assert caught.value.code == "ATP061" and not (tmp_path / "kept.hotfix").exists()


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, 6, 8)).astype(np.float32)}


@pytest.mark.parametrize("count", [50, 100])
def test_other_models_are_calibrated_on_rows(count, tmp_path, atpatch):
    onnx.save_model(attention_model(2), tmp_path / "model.onnx")
    np.savez(tmp_path / "rows.npz", **rows(count))
    run = atpatch(
        *(
            "patch",
            tmp_path / "model.onnx",
            "--calibrate",
            tmp_path / "rows.npz",
            "--save-hotfix",
            tmp_path / "h.hotfix",
        ),
        "--json",
    )
    assert (run.code, run.json["detector"]) == (0, "oneclass")
    assert run.json["calibration"]["source"] == str(tmp_path / "rows.npz") and run.json["calibration"]["rows"] == count
    assert f"{count} clean rows" in run.err
    assert Hotfix.load(tmp_path / "h.hotfix").detector == "oneclass"


def test_rows_may_be_arrays_in_memory():
    patched = patch(attention_model(2), calibrate=rows(40))
    assert patched.metadata_props


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"x": np.zeros((3, 6, 8), np.float32)}, "ATP056"),
        ({"x": np.zeros((40, 6, 8), np.float32), "columns": np.eye(40, 6, dtype=bool)}, "ATP056"),
        ({"y": np.zeros((40, 6, 8), np.float32)}, "ATP056"),
    ],
    ids=["too few", "with triggers", "another input"],
)
def test_rows_that_do_not_fit_are_refused(data, code):
    with pytest.raises(AtpatchError) as caught:
        patch(attention_model(2), calibrate=data)
    assert caught.value.code == code and caught.value.exit_code == 2


def test_an_input_that_is_not_understood_is_refused_or_falls_back():
    model = encoder()
    model.graph.node[-1].output[0] = "context"
    model.graph.node.append(onnx.helper.make_node("Mul", ["context", "weights"], ["out"]))
    model.graph.input.append(onnx.helper.make_tensor_value_info("weights", 1, ["b", "s", 1]))
    with pytest.raises(AtpatchError) as caught:
        patch(model, calibrate="noise")
    assert caught.value.code == "ATP063" and "weights" in caught.value.what
    assert "statistic" in str(patch(model).metadata_props)


BLOCKED = """
import json, sys
from importlib.abc import MetaPathFinder
missing = {missing!r}
class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
import atpatch_onnx
done = atpatch_onnx.patch({model!r}, {output!r}, calibration_rows=80)
print(json.dumps([done.detector, done.notes[0]]))
"""
HEAVY = ["torch", "scipy", "transformers", "tokenizers", "matplotlib", "jinja2"]


@pytest.mark.parametrize(
    ("missing", "detector", "words"),
    [(HEAVY, "oneclass", "random tokens"), ([*HEAVY, "onnxruntime"], "statistic", "onnxruntime")],
    ids=["core and onnxruntime", "core"],
)
def test_the_core_install_is_enough(missing, detector, words, tmp_path):
    onnx.save_model(encoder(), tmp_path / "model.onnx")
    script = BLOCKED.format(missing=missing, model=str(tmp_path / "model.onnx"), output=str(tmp_path / "p.onnx"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    found, note = json.loads(done.stdout)
    assert found == detector and words in note


def test_random_texts_stand_between_special_tokens_and_hold_none():
    texts = draw_texts(200, 50, ENDS, 30, np.random.default_rng(0))
    lengths = {len(text) for text in texts}
    assert min(lengths) == LENGTHS[0] + 2 and max(lengths) == 30 and len(lengths) > 10
    assert all(text[0] == 2 and text[-1] == 3 for text in texts)
    inner = {token for text in texts for token in text[1:-1]}
    assert inner == set(range(4, 50))


def test_every_input_of_a_text_model_is_fed(bert):
    model = onnx.load(bert)
    sites, _ = find_sites(model)
    inputs = token_inputs(model, sites)
    assert inputs is not None and not inputs.unknown
    made = rows_of([[2, 9, 3], [2, 9, 8, 7, 3]], inputs, model, ENDS.pad)
    assert set(made) == {value.name for value in model.graph.input}
    assert made["input_ids"].tolist() == [[2, 9, 3, 1, 1], [2, 9, 8, 7, 3]]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
