"""The bill of materials: valid by CycloneDX's own validator, and every digest is that of a file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from atpatch_onnx import AtpatchError, Hotfix, bom, patch, unpatch
from rewriters.names import PREFIX

from ..cli.hotfixes import hotfix_for
from ..conftest import Run
from ..tiny import attention_model, save_external, snapshot

DEMO = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits"


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """The patched demo model with its hotfix next to it."""
    for name in ("model.onnx", "model.hotfix"):
        shutil.copy(DEMO / name, tmp_path)
    patch(tmp_path / "model.onnx")
    return tmp_path / "model.patched.onnx"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def faults(document: Any) -> Any:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


def digest_of(component: Any) -> str:
    (one,) = component["hashes"]
    assert one["alg"] == "SHA-256"
    return one["content"]


def test_the_librarys_validator_accepts_it_and_its_reader_reads_it(patched: Path) -> None:
    document = bom(patched).document
    assert faults(document) is None
    assert faults({**document, "more": 1}) is not None
    assert document["metadata"]["component"]["type"] == "machine-learning-model"
    without_card = json.loads(json.dumps(document))
    del without_card["metadata"]["component"]["modelCard"]  # for which the library has no class
    read = Bom.from_json(without_card)  # type: ignore[attr-defined]
    assert read.metadata.component.name == "model.patched.onnx"
    assert [one.name for one in read.metadata.component.pedigree.ancestors] == ["original of model.patched.onnx"]


def test_digests_are_those_of_the_files(patched: Path, tmp_path: Path) -> None:
    document = bom(patched).document
    model = document["metadata"]["component"]
    unpatch(patched, tmp_path / "restored.onnx")
    assert digest_of(model) == sha256(patched)
    (original,) = model["pedigree"]["ancestors"]
    assert digest_of(original) == sha256(tmp_path / "restored.onnx")
    (hotfix,) = document["components"]
    assert (hotfix["name"], digest_of(hotfix)) == ("model.hotfix", sha256(DEMO / "model.hotfix"))


def test_the_pedigree_says_what_the_patch_is(patched: Path) -> None:
    (found,) = bom(patched).document["metadata"]["component"]["pedigree"]["patches"]
    text = found["diff"]["text"]["content"]
    assert Hotfix.load(DEMO / "model.hotfix").digest in text
    assert "vit.layers.0.attention" in text and "detector profile" in text
    assert [(one["type"], one["name"]) for one in found["resolves"]] == [("security", "backdoor")]


def test_producer_and_opset_are_named(patched: Path) -> None:
    entries = bom(patched).document["metadata"]["component"]["properties"]
    properties = {entry["name"]: entry["value"] for entry in entries}
    proto = onnx.load(patched)
    assert properties["atpatch:onnx:producer"] == f"{proto.producer_name} {proto.producer_version}"
    assert properties["atpatch:onnx:opset:ai.onnx"] == str(proto.opset_import[0].version)
    assert properties["atpatch:patch:detector"] == "profile"
    assert not any("undo" in name for name in properties)


def test_the_model_card_has_the_figures_of_the_fit(patched: Path) -> None:
    card = bom(patched).document["metadata"]["component"]["modelCard"]
    report = Hotfix.load(DEMO / "model.hotfix").evidence["report"]
    shown = {
        (one["type"], one["slice"].split(", ")[1]): one for one in card["quantitativeAnalysis"]["performanceMetrics"]
    }
    for model, part in (("original model", "before"), ("patched model", "after")):
        one, rate = shown["attack success rate", model], report[part]["asr"]
        assert float(one["value"]) == pytest.approx(rate["rate"], abs=1e-6)
        assert float(one["confidenceInterval"]["upperBound"]) == pytest.approx(rate["high"], abs=1e-6)
        assert one["slice"].startswith(f"{rate['n']} rows")
    assert float(shown["share of clean rows that are flagged", "patched model"]["value"]) == 0
    assert card["modelParameters"]["inputs"] == [{"format": "pixel_values: float (batch, 1, 8, 8)"}]


def test_external_data_are_parts_of_the_model(tmp_path: Path) -> None:
    save_external(attention_model(), tmp_path / "model.onnx")
    patch(tmp_path / "model.onnx", detector="statistic")
    made = bom(tmp_path / "model.patched.onnx")
    (data,) = made.document["metadata"]["component"]["components"]
    assert (data["name"], data["type"], digest_of(data)) == ("weights.data", "data", sha256(tmp_path / "weights.data"))
    assert {"ref": "model", "dependsOn": ["data:weights.data"]} in made.document["dependencies"]
    assert made.notes == ("the patch was made without a hotfix, so there are no figures",)
    assert faults(made.document) is None


def test_it_is_the_same_each_time_but_for_number_and_time(patched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    one, other = (json.loads(bom(patched).to_text()) for _ in range(2))
    assert one["serialNumber"] != other["serialNumber"]
    for document in (one, other):
        del document["serialNumber"], document["metadata"]["timestamp"]
    assert one == other
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    fixed = bom(patched).to_text()
    assert "2023-11-14T22:13:20" in fixed
    script = f"from atpatch_onnx import bom; print(bom({os.fspath(patched)!r}).to_text(), end='')"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert again.stdout == fixed


@pytest.mark.parametrize("time", ["yesterday", "1e9", "9" * 30])
def test_a_time_that_is_none_is_refused(patched: Path, monkeypatch: pytest.MonkeyPatch, time: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", time)
    with pytest.raises(AtpatchError, match="ATP060"):
        bom(patched)


def test_a_hotfix_against_unfairness_says_so(tmp_path: Path) -> None:
    model = attention_model(layers=2)
    onnx.save_model(model, tmp_path / "model.onnx")
    rate = {"k": 1, "n": 10, "rate": 0.1, "low": 0.0, "high": 0.4}
    report = {"before": {"unfair": rate}, "after": {"unfair": {**rate, "k": 0, "rate": 0.0}}}
    hotfix = replace(hotfix_for(model, tmp_path), evidence={"report": report})
    hotfix.save(tmp_path / "model.hotfix")
    patch(tmp_path / "model.onnx")
    (found,) = bom(tmp_path / "model.patched.onnx").document["metadata"]["component"]["pedigree"]["patches"]
    assert [(one["type"], one["name"]) for one in found["resolves"]] == [("defect", "unfairness")]


@pytest.mark.parametrize("report", [3, "x", {"before": [], "after": {}}, {"before": {"asr": {"rate": "many", "n": 1}}}])
def test_figures_that_are_nonsense_are_left_out(tmp_path: Path, report: Any) -> None:
    model = attention_model(layers=2)
    onnx.save_model(model, tmp_path / "model.onnx")
    replace(hotfix_for(model, tmp_path), evidence={"report": report}).save(tmp_path / "model.hotfix")
    patch(tmp_path / "model.onnx")
    made = bom(tmp_path / "model.patched.onnx")
    assert (
        "left out" in made.notes[0]
        and "quantitativeAnalysis" not in made.document["metadata"]["component"]["modelCard"]
    )


def test_without_the_hotfix_there_are_no_figures(patched: Path) -> None:
    patched.with_name("model.hotfix").unlink()
    made = bom(patched)
    assert "no hotfix next to the model" in made.notes[0]
    assert "components" not in made.document
    assert bom(patched, hotfix=DEMO / "model.hotfix").notes == ()


def test_another_hotfix_is_not_taken_for_it(patched: Path) -> None:
    other = replace(Hotfix.load(DEMO / "model.hotfix"), threshold=0.9)
    other.save(patched.with_name("other.hotfix"))
    with pytest.raises(AtpatchError, match="ATP054"):
        bom(patched, hotfix=patched.with_name("other.hotfix"))
    without = patched.with_name("without.onnx")
    patch(DEMO / "model.onnx", without, detector="statistic")
    with pytest.raises(AtpatchError, match=r"ATP054.*leave --hotfix out"):
        bom(without, hotfix=DEMO / "model.hotfix")
    other.save(patched.with_name("model.hotfix"))
    made = bom(patched)
    assert "is not the hotfix of this patch" in made.notes[0] and "components" not in made.document


def test_what_is_no_patched_model_is_refused(patched: Path, tmp_path: Path) -> None:
    with pytest.raises(AtpatchError, match="ATP013"):
        bom(tmp_path / "model.onnx")
    proto = onnx.load(patched)
    of_the_original = next(node for node in proto.graph.node if not node.name.startswith(PREFIX))
    of_the_original.name = "renamed by somebody"
    onnx.save_model(proto, tmp_path / "changed.onnx")
    with pytest.raises(AtpatchError, match="ATP014"):
        bom(tmp_path / "changed.onnx")
    proto = onnx.load(patched)
    next(entry for entry in proto.metadata_props if entry.key == "atpatch.hotfix").value = "<script>"
    onnx.save_model(proto, tmp_path / "disguised.onnx")
    with pytest.raises(AtpatchError, match="ATP014"):
        bom(tmp_path / "disguised.onnx")


def test_hostile_names_stay_text(tmp_path: Path, atpatch: Callable[..., Run]) -> None:
    model = attention_model()
    model.producer_name = "\x1b[31m<script>\ud7ff\n" + "a" * 5000
    path = tmp_path / os.fsdecode(b"m\xff\n.onnx")
    onnx.save_model(model, path)
    patch(path, path.with_name("p\x1b\n.onnx"), detector="statistic")
    shown = atpatch("bom", path.with_name("p\x1b\n.onnx"))
    assert shown.code == 0 and "\x1b" not in shown.out + shown.err
    assert faults(json.loads(shown.out)) is None
    strange = tmp_path / os.fsdecode(b"\xff.onnx")
    shutil.copy(path.with_name("p\x1b\n.onnx"), strange)
    assert faults(json.loads(atpatch("bom", strange).out)) is None


# The command


def test_the_command_prints_json_only_or_writes_a_file(
    patched: Path, tmp_path: Path, atpatch: Callable[..., Run]
) -> None:
    printed = atpatch("bom", patched)
    assert faults(json.loads(printed.out)) is None and printed.err == ""
    written = atpatch("bom", patched, "-o", tmp_path / "bom.json")
    assert (written.code, written.out, written.err) == (0, "", f"written {tmp_path / 'bom.json'}\n")
    assert faults(json.loads((tmp_path / "bom.json").read_text())) is None


def test_a_folder_stands_for_its_model(patched: Path, tmp_path: Path, atpatch: Callable[..., Run]) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "config.json").write_text("{}")
    patched.rename(served / "model.onnx")
    document = json.loads(atpatch("bom", served, "--hotfix", DEMO / "model.hotfix").out)
    assert document["metadata"]["component"]["name"] == "model.onnx"


@pytest.mark.parametrize("output", ["model.patched.onnx", "model.hotfix"])
def test_it_is_not_written_over_what_it_describes(patched: Path, atpatch: Callable[..., Run], output: str) -> None:
    before = snapshot(patched.parent)
    done = atpatch("bom", patched, "--hotfix", patched.with_name("model.hotfix"), "-o", patched.with_name(output))
    assert done.code == 2 and "ATP016" in done.err
    with pytest.raises(AtpatchError, match="ATP016"):
        bom(patched, patched.with_name(output))
    assert snapshot(patched.parent) == before


def test_it_is_not_written_over_the_weights(tmp_path: Path) -> None:
    save_external(attention_model(), tmp_path / "model.onnx")
    patch(tmp_path / "model.onnx", detector="statistic")
    before = snapshot(tmp_path)
    with pytest.raises(AtpatchError, match="ATP016"):
        bom(tmp_path / "model.patched.onnx", tmp_path / "weights.data")
    assert snapshot(tmp_path) == before


def test_without_the_package_the_extra_is_named(
    patched: Path, atpatch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx", None)
    done = atpatch("bom", patched)
    assert done.code == 2 and "ATP051" in done.err and "atpatch-onnx[bom]" in done.err
