"""What is not on every system is not taken for granted. `make check` runs mypy as on Windows, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "atpatch_onnx" / "demo" / "digits"


def run(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env={**os.environ, **environment}, capture_output=True
    )


@pytest.mark.slow
def test_without_what_windows_lacks_all_modules_import_and_a_patch_can_be_undone(tmp_path: Path) -> None:
    done = run("-m", "tests.project.windows", DEMO / "model.onnx", DEMO / "model.hotfix", tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    modules = [path.relative_to(ROOT) for name in ("rewriters", "atpatch_onnx") for path in (ROOT / name).rglob("*.py")]
    assert len(done.stdout.split()) > len(modules) - 10
    assert (tmp_path / "original.onnx").read_bytes() == (DEMO / "model.onnx").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_an_arrow_is_no_fault_where_the_output_has_none() -> None:
    done = run("-m", "atpatch_onnx", "export", "--help", PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert done.returncode == 0 and b"tokens ? logits" in done.stdout
