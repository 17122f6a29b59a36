"""What the tests sign, and with which keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from ..tiny import attention_model, save_external
from .keys import Keys, make_keys

DEMO = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Of somebody else."""
    return make_keys(tmp_path_factory.mktemp("others"))


@pytest.fixture
def hotfix(tmp_path: Path) -> Path:
    return Path(shutil.copy(DEMO / "model.hotfix", tmp_path))


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weights are in a file next to it."""
    folder = tmp_path / "external"
    folder.mkdir()
    save_external(attention_model(), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as Optimum loads it, cloned with git."""
    path = tmp_path / "served"
    (path / "onnx").mkdir(parents=True)
    onnx.save_model(attention_model(), path / "onnx" / "model.onnx")
    (path / "config.json").write_text("{}")
    (path / ".gitattributes").write_text("*.onnx filter=lfs\n")
    return path
