"""The MLflow recipe of the guide, with a file store: what is logged comes back, byte for byte and bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from atpatch_onnx import sign

from ..conftest import Run
from ..documents import ROOT, blocks
from ..signing.keys import make_keys

PAGE = ROOT / "docs" / "guide" / "paper-trail.md"


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow with an empty store."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    found = pytest.importorskip("mlflow", exc_type=ImportError)
    before = found.get_tracking_uri()
    found.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield found
    found.set_tracking_uri(before)


@pytest.mark.slow
def test_the_recipe(mlflow: Any, demo_folder: Path, atpatch: Callable[..., Run]) -> None:
    keys = make_keys(demo_folder / "keys")
    shutil.copy(keys.public, "pub.pem")
    shutil.copy("model.hotfix", "patched.hotfix")
    sign("patched.onnx", key=keys.private)
    words = ("--data", "clean.npz", "--triggered", "triggered.npz", "--seconds", "0")
    written = ("--report", "compare.html", "--save", "run.npz")
    compared = atpatch("compare", "model.onnx", "patched.onnx", *words, *written, "--json")
    assert atpatch("bom", "patched.onnx", "-o", "bom.json").code == 0

    names: dict[str, Any] = {}
    recipe = [block for block in blocks(PAGE) if 'title="' in block.options]
    assert [block.options for block in recipe] == ['title="log_run.py"', 'title="load_run.py"']
    for block in recipe:
        exec(compile(block.text, str(block), "exec"), names)

    run = mlflow.get_run(names["run"].info.run_id)
    assert run.data.tags["atpatch.verdict"] == compared.json["verdict"]
    assert run.data.tags["atpatch.hotfix"] in Path("bom.json").read_text()
    assert run.data.metrics["original.asr_star"] == 1 and run.data.metrics["patched.asr_star"] == 0
    assert (Path(names["folder"]) / "model.onnx").read_bytes() == Path("patched.onnx").read_bytes()
    rows = {"pixel_values": np.load("triggered.npz")["pixel_values"]}
    ours = onnxruntime.InferenceSession("patched.onnx").run(None, rows)
    assert np.array_equal(names["session"].run(None, rows)[0], ours[0])
    logged = {one.path for one in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert {"compare.html", "compare.json", "bom.json", "patched.onnx.sig"} <= logged
