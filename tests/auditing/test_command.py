"""`audit`: one verdict, one exit code, JSON by its schema, and every check that was not made is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.auditing.auditor import audit
from atpatch_onnx.auditing.budget import Budget, OutOfTime
from atpatch_onnx.auditing.finding import Finding, NotTried
from atpatch_onnx.auditing.verdict import judge
from atpatch_onnx.errors import AtpatchError

from ..conftest import Run
from ..tiny import attention_model

Atpatch = Callable[..., Run]


def test_a_model_without_rows_is_clean_as_far_as_it_can_be_said(model_path: Path, atpatch: Atpatch) -> None:
    run = atpatch("audit", model_path, "--json")
    assert run.code == 0
    assert (run.json["verdict"], run.json["sure"], run.json["rests_on"]) == ("clean", "low", [])
    missing = {one["check"].split(" ")[1]: one["why"] for one in run.json["not_tried"] if "behavior" in one["check"]}
    assert set(missing) == {"AUD201", "AUD202", "AUD203", "AUD204", "AUD205"}
    assert all("--clean" in why for why in missing.values())
    people = atpatch("audit", model_path)
    assert (people.code, people.out) == (0, "") and run.json["sentence"] in people.err


def test_a_budget_of_nothing_runs_nothing(model_path: Path, atpatch: Atpatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atpatch_onnx.inference.runner.session", None)
    report = atpatch("audit", model_path, "--budget", 0, "--json").json
    assert all("budget is 0" in one["why"] for one in report["not_tried"] if "behavior" in one["check"])
    assert report["behavior"]["rows"] is None


@pytest.mark.parametrize("arguments", [["missing.onnx"], ["text.onnx"], ["model.onnx", "--budget", "-1"]])
def test_what_cannot_be_used_is_2(arguments: list[str], model_path: Path, atpatch: Atpatch) -> None:
    (model_path.parent / "text.onnx").write_text("no model")
    name, *more = arguments
    assert atpatch("audit", model_path.parent / name, *more).code == 2


def test_rows_that_do_not_fit_are_named(model_path: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    np.savez(tmp_path / "rows.npz", other=np.zeros((4, 3), np.float32))
    report = atpatch("audit", model_path, "--clean", tmp_path / "rows.npz", "--json").json
    whys = {one["why"] for one in report["not_tried"] if "behavior" in one["check"]}
    assert len(whys) == 1 and "lacks the graph's input 'x'" in whys.pop()


def test_a_command_to_copy_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "a $(touch b).onnx"
    model = attention_model()
    path.write_bytes(model.SerializeToString())
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    remedies = [one.remedy for one in audit(path, budget=0, reference=model).findings if "atpatch-onnx" in one.remedy]
    assert remedies and all(f"'{path}'" in remedy for remedy in remedies)


def test_a_folder_with_one_model_is_that_model(model_path: Path, atpatch: Atpatch) -> None:
    (model_path.parent / "config.json").write_text('{"model_type": "bert"}')
    assert atpatch("audit", model_path.parent, "--budget", 0, "--json").json["model"]["path"] == str(model_path)


def test_an_output_that_cannot_be_written_stops_before_the_work(model_path: Path, atpatch: Atpatch) -> None:
    for option in ("--html", "--sarif", "--cut"):
        assert atpatch("audit", model_path, option, model_path.parent).code == 2
    assert atpatch("audit", model_path, "--cut", model_path).code == 2


def test_a_model_in_memory_is_not_changed() -> None:
    model = attention_model()
    before = model.SerializeToString()
    found = audit(model)
    assert found.facts["path"] is None and found.verdict.word == "clean"
    assert model.SerializeToString() == before


@pytest.mark.parametrize("first", ["", "import atpatch_onnx.auditing.rules; "])
def test_the_public_function_is_there_whatever_was_imported_before(first: str) -> None:
    script = f"import atpatch_onnx; {first}print(atpatch_onnx.audit('model.onnx', budget=0))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "ATP002" in done.stderr and "Traceback" in done.stderr


# Verdicts


def finding(severity: str, code: str = "AUD101", check: str = "graph logic") -> Finding:
    return Finding(check, code, severity, "there", "something is there")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("severities", "word", "exit_code"),
    [
        ([], "clean", 0),
        (["note"], "clean", 0),
        (["note", "warning"], "suspicious", 1),
        (["warning", "error"], "backdoored", 1),
    ],
)
def test_the_gravest_finding_decides(severities: list[str], word: str, exit_code: int) -> None:
    verdict = judge([finding(severity) for severity in severities], (), None)
    assert (verdict.word, verdict.exit_code) == (word, exit_code)


def test_two_checks_that_agree_are_surer_than_one() -> None:
    one, other = finding("error"), finding("error", "AUD201", "behavior")
    assert judge([one], (), None).sure == "medium"
    assert judge([one, other], (), None).sure == "high"
    assert judge([one, other], (), None).rests_on == ("AUD101", "AUD201")


def test_what_was_not_tried_makes_clean_less_sure() -> None:
    assert judge([], (), None).sure == "medium"
    assert judge([], (NotTried("behavior: AUD201", "no rows"),), None).sure == "low"


# Budget


def test_a_budget_ends_a_search_but_not_its_last_step() -> None:
    said: list[str] = []
    budget = Budget.of(0, lambda step, done, total: said.append(step))
    budget("search", 10, 10)
    with pytest.raises(OutOfTime, match="search"):
        budget("search", 9, 10)
    assert said == ["search", "search"]
    assert 0 < Budget.of(1, lambda *_: None).part(0.5).left <= 30


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(AtpatchError, match="ATP060"):
        audit(onnx.ModelProto(), seed=-1)
