"""`serve` takes folders, and a patched model without its original."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import onnx
import pytest

from atpatch_onnx import patch
from atpatch_onnx.cli.serve_settings import model_files

from ..tiny import attention_model


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """served/ and patched/."""
    served = tmp_path / "served"
    served.mkdir()
    onnx.save_model(attention_model(layers=2), served / "model.onnx")
    (served / "config.json").write_text('{"model_type": "bert"}')
    patch(served, tmp_path / "patched", detector="static", columns=(1,))
    return tmp_path


def test_folders_stand_for_the_models_in_them(folders: Path) -> None:
    with ExitStack() as stack:
        files = model_files(f"{folders}/served", f"{folders}/patched", False, stack)
    assert files == (f"{folders}/served/model.onnx", f"{folders}/patched/model.onnx")


def test_the_original_of_a_patched_model_is_restored_and_goes_at_the_end(folders: Path) -> None:
    shutil.rmtree(folders / "served")
    with ExitStack() as stack:
        original, patched = model_files(f"{folders}/patched", None, False, stack)
        assert patched == f"{folders}/patched/model.onnx"
        assert onnx.load(original) == attention_model(layers=2)
    assert not os.path.exists(original)


def test_an_original_stays_alone(folders: Path) -> None:
    """The command then asks for the patched one, or for --calibrate."""
    with ExitStack() as stack:
        assert model_files(f"{folders}/served", None, False, stack) == (f"{folders}/served/model.onnx", None)
        assert model_files(f"{folders}/patched", None, True, stack) == (f"{folders}/patched/model.onnx", None)
