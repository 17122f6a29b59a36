"""The folder in which the examples of the reference run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from atpatch_onnx import patch_model

from ..documents import ROOT

DEMO = ROOT / "atpatch_onnx" / "demo" / "digits"


@pytest.fixture(scope="session")
def demo_patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "patched.onnx"
    patch_model(DEMO / "model.onnx", path)
    return path


@pytest.fixture
def demo_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_patched: Path) -> Path:
    """The current folder, with the files of the demo."""
    for name in ("model.onnx", "model.hotfix", "clean.npz", "debug.npz", "triggered.npz"):
        shutil.copy(DEMO / name, tmp_path)
    shutil.copy(demo_patched, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path
