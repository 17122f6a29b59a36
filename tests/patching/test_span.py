"""`patch --span`: what a session has to be fed, what people are told, and that other commands know the input."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from atpatch_onnx import AtpatchError, bench, compare, inspect, patch, unpatch
from atpatch_onnx.deploy.models import load_arms
from atpatch_onnx.inference.controls import required_controls
from atpatch_onnx.inference.sessions import session

from ..benchmark.case import token_model
from ..comparison.case import classifier, rows
from ..tiny import attention_model

X = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
SPANS = np.array([[0, 2], [1, 4], [2, 2]])
SILENT = ("--detector", "static", "--columns", "none")


@pytest.fixture
def path(tmp_path):
    onnx.save_model(attention_model(layers=2), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("controls", ["optional", "required", "none"])
@pytest.mark.parametrize("span", ["optional", "required"])
def test_the_input_is_given_apart_from_the_controls(path, atpatch, span, controls):
    done = atpatch("patch", path, "--json", *SILENT, "--span", span, "--controls", controls).json
    live = session(done["output"])
    required = [value.name for value in live.get_inputs()]
    assert ("atpatch_span" in required) is (span == "required")
    fed = {"x": X, **required_controls(live)}
    answer, empty = live.run(["y", "atpatch_span_attention"], fed)
    marked = live.run(["y", "atpatch_span_attention"], {**fed, "atpatch_span": SPANS})
    before = session(path).run(None, {"x": X})[0]
    assert answer.tobytes() == marked[0].tobytes() == before.tobytes()
    assert not empty.any() and marked[1].shape == (3, 4)
    assert marked[1][:2].any(1).all() and not marked[1][2].any()
    unpatch(done["output"], path.with_name("back.onnx"))
    assert path.with_name("back.onnx").read_bytes() == path.read_bytes()


def test_inspect_says_which_heads_it_reports(path, atpatch):
    done = atpatch("patch", path, "--json", *SILENT, "--span", "optional").json
    shown = atpatch("inspect", done["output"])
    assert "optional input atpatch_span, output atpatch_span_attention of 2 sites, 4 heads" in shown.err
    stamped = inspect(done["output"]).model["patch"]["span"]
    assert atpatch("inspect", done["output"], "--json").json["model"]["patch"]["span"] == stamped


@pytest.mark.parametrize(
    ("span", "said"), [("optional", "--span required makes it"), ("required", "every generator must be fed")]
)
def test_a_note_for_genai(path, atpatch, span, said):
    (path.parent / "genai_config.json").write_text("{}")
    run = atpatch("patch", path, *SILENT, "--controls", "none", "--span", span)
    assert run.code == 0 and said in run.err


def test_a_portable_patch_has_no_optional_input(path):
    with pytest.raises(AtpatchError) as caught:
        patch(path, detector="static", columns=(), span="optional", portable=True)
    assert caught.value.code == "ATP060" and "--span required" in caught.value.fix
    patched = patch(onnx.load(path), detector="static", columns=(), span="required", portable=True)
    assert not any(node.op_type == "If" for node in patched.graph.node)
    live = session(patched)
    (found,) = live.run(["atpatch_span_attention"], {"x": X, "atpatch_span": SPANS})
    assert found[:2].any(1).all() and not found[2].any()


def test_compare_feeds_an_empty_span(tmp_path):
    model = classifier()
    paths = {span: tmp_path / f"{span}.onnx" for span in (None, "required")}
    for span, path in paths.items():
        onnx.save_model(patch(model, detector="statistic", threshold=1.2, span=span), path)
    found = compare(
        model, paths[None], {"x": rows(20)}, also={"span": paths["required"]}, threads=1, seconds=0, exemplar=False
    )
    one, two = (found.outputs[name]["clean"] for name in ("patched", "span"))
    assert one.scores.tobytes() == two.scores.tobytes()


def test_bench_feeds_an_empty_span(tmp_path):
    onnx.save_model(token_model(), tmp_path / "model.onnx")
    patch(tmp_path / "model.onnx", tmp_path / "p.onnx", detector="statistic", span="required")
    shapes = [{"batch": 4, "sequence": 12}]
    found = bench(tmp_path / "model.onnx", tmp_path / "p.onnx", shapes=shapes, pairs=6, seconds=0.05, rounds=1)
    assert [one.kind for one in found.timed] == ["clean", "flagged"]


def test_deploy_says_how_clients_need_not_know_of_it(path):
    patch(path, detector="static", columns=(), span="required")
    with pytest.raises(AtpatchError) as caught:
        load_arms(path, path.with_name("model.patched.onnx"))
    assert caught.value.code == "ATP075" and "--span required" in caught.value.fix
