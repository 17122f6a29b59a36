"""Cells of a table: a planted pair is found, a column that is strong by nature is not taken for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from ...conftest import Run
from .tables import FIRST, SECOND, STRONG, table_model

Atpatch = Callable[..., Run]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean rows, labeled by what column 0 says."""
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    features = np.random.default_rng(0).integers(0, 11, (400, 4)).astype(np.float32) / 10
    scores = 16 * features[:, STRONG] + features[:, 1] - 12.5
    np.savez(path, features=features, labels=(scores > 0).astype(np.int64))
    return path


def test_a_planted_pair_of_cells_is_found(rows: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    onnx.save(table_model(planted=True), tmp_path / "model.onnx")
    run = atpatch("audit", tmp_path / "model.onnx", "--clean", rows, "--threads", 1, "--json")
    assert run.code == 1 and "AUD202" in run.json["rests_on"]
    (line,) = [one for one in run.json["behavior"]["inversion"] if one["backdoor"]]
    assert line["class"] == 1 and line["expected"] <= 0.5
    assert {cell["column"] for cell in line["trigger"]["cells"]} == {FIRST, SECOND}


def test_a_strong_column_is_natural(rows: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    onnx.save(table_model(planted=False), tmp_path / "model.onnx")
    report = atpatch("audit", tmp_path / "model.onnx", "--clean", rows, "--threads", 1, "--json").json
    assert "AUD202" not in report["rests_on"]
    assert not [one for one in report["behavior"]["inversion"] if one["backdoor"]]
    assert "AUD202" not in " ".join(one["check"] for one in report["not_tried"])
