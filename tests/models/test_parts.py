"""The evidence can be measured and told in parts."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from models.evidence.build import main
from models.evidence.case import Case
from models.evidence.parts import PARTS, Part, elsewhere, minutes_of
from models.evidence.runner import STEPS
from models.evidence.settings import SETTINGS


def test_every_step_of_every_case_is_in_one_part() -> None:
    own = [part for part in PARTS.values() if not part.module]
    for case in (Case(setting, 0) for setting in SETTINGS):
        for step in STEPS:
            assert sum(step in part.steps and part.has(case) for part in own) == 1, (case.name, step)


def test_parts_with_results_of_their_own_have_a_command() -> None:
    modules = [part.module for part in PARTS.values() if part.module]
    assert len(modules) == 3
    assert all(isinstance(import_module(module).main, click.Command) for module in modules)


def test_minutes_are_those_of_a_parts_steps(tmp_path: Path) -> None:
    for file, whole in (("holding/a", {"runs": [{"seconds": 60}, {"seconds": 90}]}), ("decoders/b", {"seconds": 30})):
        (tmp_path / file).parent.mkdir()
        (tmp_path / f"{file}.json").write_text(json.dumps(whole))
    others = elsewhere(tmp_path)
    assert others == {"adaptive": 2.5, "llm": 0.5, "graph-logic": None}
    steps = {"fit": {"seconds_taken": 60}, "onion": {"seconds_taken": 120}, "statistic": {"seconds_taken": 6}}
    evidence = {
        "settings": [{"name": "one", "kind": "text"}],
        "runs": [{"setting": "one", "steps": steps}] * 2,
        "elsewhere": others,
    }
    assert minutes_of(evidence) == {
        "images": 0, "texts": 2, "tables": 0, "no-label": 0.2, "peers": 4, "adaptive": 2.5, "llm": 0.5,
        "graph-logic": None,
    }  # fmt: skip


def test_command_measures_a_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("models.evidence.build.measure", lambda cases, steps, **_: asked.append((cases, steps)) or [])
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Part, "measure", lambda part: asked.append(part.module))
    arguments = ["--output", str(tmp_path / "results"), "--seeds", "0"]
    assert CliRunner().invoke(main, [*arguments, "--group", "tables"], catch_exceptions=False).exit_code == 0
    ((cases, steps),) = asked
    assert {case.setting.kind for case in cases} == {"table"} and len(cases) == 7
    assert steps == ["fit", "latency", "kinds", "ablations", "curves"]
    assert CliRunner().invoke(main, [*arguments, "--group", "llm"], catch_exceptions=False).exit_code == 0
    assert asked[1:] == ["models.evidence.decoders.__main__"]
