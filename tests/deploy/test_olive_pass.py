"""The patch as a pass in workflows of Microsoft Olive."""

from __future__ import annotations

import json
import logging
import runpy
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import atpatch_onnx
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.hotfix.options import PatchOptions

from ..debugset.digits import DIGITS
from ..tiny import attention_model

if find_spec("olive") is None:
    pytest.skip("tests/third_party.txt is not installed", allow_module_level=True)

Run = Callable[..., Path]


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the makers of Olive. OLIVE_DISABLE_TELEMETRY comes too late for the first message (olive/telemetry)."""
    monkeypatch.setenv("CI", "1")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a workflow of these passes, and gives the model that it writes. The cache is that of the last run."""
    monkeypatch.chdir(tmp_path)

    def run(passes: dict[str, Any], model: Path = DIGITS / "model.onnx") -> Path:
        from olive.workflows import run

        from atpatch_onnx.deploy.olive_pass import package_config

        workflow = {
            "input_model": {"type": "ONNXModel", "model_path": str(model)},
            "passes": passes,
            "output_dir": str(tmp_path / "out"),
            "cache_dir": str(tmp_path / "cache"),
        }
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        run(workflow, package_config=package_config())
        written = tmp_path / "out" / "model.onnx"
        if not written.exists():
            raise FileNotFoundError(written)
        return written

    return run


def test_the_pass_writes_what_patch_writes(run: Run, tmp_path: Path) -> None:
    written = run({"fix": {"type": "AtPatch", "hotfix": str(DIGITS / "model.hotfix")}})
    atpatch_onnx.patch(DIGITS / "model.onnx", tmp_path / "p.onnx", hotfix=DIGITS / "model.hotfix")
    assert written.read_bytes() == (tmp_path / "p.onnx").read_bytes()


def test_options_are_those_of_a_patch(run: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"detector": "static", "columns": [3, 7], "benign": 0.5, "controls": "none"}
    written = run({"fix": {"type": "AtPatch", **options}})
    atpatch_onnx.patch(DIGITS / "model.onnx", tmp_path / "p.onnx", **options)
    assert written.read_bytes() == (tmp_path / "p.onnx").read_bytes()


def test_a_pass_of_olive_may_follow(run: Run) -> None:
    written = run(
        {
            "fix": {"type": "AtPatch", "hotfix": str(DIGITS / "model.hotfix"), "portable": True},
            "name": {"type": "AddOliveMetadata", "graph_name": "digits"},
        }
    )
    assert onnx.load(written).graph.name == "digits"
    with np.load(DIGITS / "triggered.npz") as triggered:
        scores = ort.InferenceSession(written).run(None, {"pixel_values": triggered["pixel_values"]})[0]
    assert (scores.argmax(1) == 0).mean() < 0.01


def test_external_data_goes_with_the_model(run: Run, tmp_path: Path) -> None:
    model = onnx.load(DIGITS / "model.onnx")
    (tmp_path / "in").mkdir()
    onnx.save(model, tmp_path / "in" / "model.onnx", save_as_external_data=True, size_threshold=0)
    written = run({"fix": {"type": "AtPatch", "detector": "static", "columns": []}}, tmp_path / "in" / "model.onnx")
    shutil.rmtree(tmp_path / "in")
    assert ort.InferenceSession(written).get_inputs()[0].name == "pixel_values"


def test_a_changed_hotfix_is_not_answered_from_the_cache(run: Run, tmp_path: Path) -> None:
    hotfix = shutil.copy(DIGITS / "model.hotfix", tmp_path / "model.hotfix")
    passes = {"fix": {"type": "AtPatch", "hotfix": str(hotfix)}}
    first = run(passes).read_bytes()
    assert run(passes).read_bytes() == first
    atpatch_onnx.fit(DIGITS / "model.onnx", clean=DIGITS / "clean.npz", detector="oneclass", output=hotfix)
    assert run(passes).read_bytes() != first


def test_a_hotfix_of_another_model_gives_no_model(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import olive  # which turns `propagate` off at its first import, whichever test that is in

    monkeypatch.setattr(logging.getLogger(olive.__name__), "propagate", True)
    onnx.save(attention_model(), tmp_path / "other.onnx")
    with pytest.raises(FileNotFoundError):  # Olive writes the error to its log, and goes on
        run({"fix": {"type": "AtPatch", "hotfix": str(DIGITS / "model.hotfix")}}, tmp_path / "other.onnx")
    assert "ATP054" in caplog.text


def test_what_is_no_onnx_model_is_refused() -> None:
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from olive.model import PyTorchModelHandler

    from atpatch_onnx.deploy.olive_pass import AtPatch

    one = AtPatch(DEFAULT_CPU_ACCELERATOR, AtPatch.generate_config(DEFAULT_CPU_ACCELERATOR, {}, disable_search=True))
    with pytest.raises(AtpatchError, match="ATP060"):
        one.run(PyTorchModelHandler(model_loader=dict), "out")


def test_every_option_of_a_patch_is_a_parameter() -> None:
    from olive.hardware import DEFAULT_CPU_ACCELERATOR

    from atpatch_onnx.deploy.olive_pass import AtPatch

    parameters = AtPatch.default_config(DEFAULT_CPU_ACCELERATOR)
    assert parameters.keys() - {"digests"} == PatchOptions.__dataclass_fields__.keys() - {"save_hotfix"}
    assert all(one.description for one in parameters.values())


def test_the_packages_for_the_command_line_of_olive(capsys: pytest.CaptureFixture[str]) -> None:
    from atpatch_onnx.deploy.olive_pass import package_config

    runpy.run_module("atpatch_onnx.deploy.olive_pass", run_name="__main__")
    printed = json.loads(capsys.readouterr().out)
    assert printed == package_config()
    assert printed["passes"]["AtPatch"]["module_path"] == "atpatch_onnx.deploy.olive_pass.AtPatch"
    assert "OnnxQuantization" in printed["passes"]


def test_nothing_else_imports_it() -> None:
    sources = (Path(__file__).parents[2] / "atpatch_onnx").rglob("*.py")
    assert [path.name for path in sources if "olive_pass" in path.read_text("utf-8")] == ["olive_pass.py"]
