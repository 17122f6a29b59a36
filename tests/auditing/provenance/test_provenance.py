"""What a file says of its origin: a reference to compare with, a patch of ours, data outside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper, numpy_helper

from atpatch_onnx.auditing.auditor import audit

from ...cli.hotfixes import hotfix_for
from ...conftest import Run
from ...tiny import attention_model, save_external

Atpatch = Callable[..., Run]


def codes(model: onnx.ModelProto | Path, **options: object) -> dict[str, str]:
    return {one.code: one.severity for one in audit(model, budget=0, **options).findings}  # type: ignore[arg-type]


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    save_external(attention_model(), tmp_path / "model.onnx")
    found = audit(tmp_path / "model.onnx", budget=0)
    assert found.facts["sha256"] == hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    (name,) = found.facts["external_data"]
    assert found.facts["external_data"][name] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert {one.code for one in found.findings} == {"AUD302"}


def test_a_file_without_a_producer_is_a_note() -> None:
    model = attention_model()
    model.producer_name = ""
    assert codes(model) == {"AUD301": "note"}


# A reference


def test_without_a_reference_the_comparison_is_not_tried() -> None:
    assert "AUD321" in " ".join(one.check for one in audit(attention_model(), budget=0).not_tried)


def test_the_same_model_matches_its_reference(tmp_path: Path) -> None:
    save_external(attention_model(), tmp_path / "reference.onnx")
    found = audit(attention_model(), budget=0, reference=tmp_path / "reference.onnx")
    assert not found.findings and "AUD321" not in " ".join(one.check for one in found.not_tried)


def test_added_nodes_are_named() -> None:
    model = attention_model()
    model.graph.node.append(helper.make_node("Relu", ["y"], ["more"], name="extra"))
    model.graph.output[0].name = "more"
    found = audit(model, budget=0, reference=attention_model())
    (one,) = [one for one in found.findings if one.code == "AUD322"]
    assert (one.severity, one.nodes, found.verdict.word) == ("warning", ("extra",), "suspicious")


def test_changed_weights_are_counted() -> None:
    model = attention_model()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    assert codes(model, reference=attention_model()) == {"AUD321": "warning"}


# A patch of ours


@pytest.fixture
def patched(model_path: Path, atpatch: Atpatch) -> Path:
    hotfix_for(onnx.load(model_path), model_path.parent).save(model_path.with_suffix(".hotfix"))
    assert atpatch("patch", model_path).code == 0
    return model_path.with_name("model.patched.onnx")


def test_a_patch_that_can_be_made_again_is_no_finding(patched: Path) -> None:
    found = codes(patched)
    assert not {"AUD311", "AUD312"} & set(found)


def test_a_patch_without_its_hotfix_is_a_note(patched: Path) -> None:
    patched.with_name("model.hotfix").unlink()
    assert codes(patched)["AUD312"] == "note"


def test_a_stamp_that_does_not_hold_is_an_error(patched: Path) -> None:
    model = onnx.load(patched)
    model.producer_name = "somebody else"
    onnx.save(model, patched)
    found = audit(patched, budget=0)
    assert found.verdict.word == "backdoored" and "AUD311" in found.verdict.rests_on
