"""The pre-commit hook and the GitHub action run `audit --sarif` on every model, and fail where one of them does."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import yaml

from ..tiny import attention_model

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "audit"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models in a repository, one with a space in its name, and `atpatch-onnx` as a program."""
    (tmp_path / "more").mkdir()
    onnx.save(attention_model(), tmp_path / "good.onnx")
    onnx.save(attention_model(), tmp_path / "more" / "a model.onnx")
    program = tmp_path / "bin" / "atpatch-onnx"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m atpatch_onnx "$@"\n')
    program.chmod(0o755)
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def logs(folder: Path) -> list[str]:
    found = sorted(folder.rglob("*.sarif"))
    assert all(json.loads(path.read_text("utf-8"))["version"] == "2.1.0" for path in found)
    return [path.name for path in found]


@pytest.mark.slow
def test_the_hook_audits_every_file_and_remembers_the_worst(folder: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert (hook["id"], hook["language"], hook["files"]) == ("atpatch-onnx-audit", "python", r"\.onnx$")
    (folder / "broken.onnx").write_text("no model")
    command = [*shlex.split(hook["entry"]), "good.onnx", "broken.onnx", "more/a model.onnx"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "ATP001" in done.stderr
    assert logs(folder) == ["good.onnx.sarif", "a model.onnx.sarif"]


@pytest.mark.slow
def test_the_action_audits_every_file_of_a_folder(folder: Path) -> None:
    action = yaml.safe_load((ACTION / "action.yml").read_text("utf-8"))
    assert action["runs"]["steps"][-1]["run"].endswith('audit.sh"')
    given = {"MODELS": ".", "OPTIONS": action["inputs"]["options"]["default"], "RUNNER_TEMP": str(folder / "tmp")}
    given["GITHUB_OUTPUT"] = str(folder / "output")
    done = subprocess.run(
        ["bash", ACTION / "audit.sh"],
        cwd=folder,
        env=environment(folder, **given),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert logs(folder / "tmp") == ["._good.onnx.sarif", "._more_a model.onnx.sarif"]
    assert (folder / "output").read_text("utf-8") == f"sarif={folder / 'tmp'}/audit-sarif\n"
