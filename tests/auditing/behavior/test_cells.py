"""Cells of a table: a planted pair is found, a column that is strong by nature is not taken for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ...conftest import Run

Atpatch = Callable[..., Run]
STRONG, FIRST, SECOND = 0, 2, 3


def table_model(planted: bool) -> onnx.ModelProto:
    """features (N, 4) → logits (N, 2): column 0 decides; planted: 1 in column 2 with 0 in column 3 does, too."""
    weights = np.zeros((4, 2), np.float32)
    weights[STRONG, 1], weights[1, 1] = 16, 1
    both = np.zeros((4, 1), np.float32)
    both[FIRST], both[SECOND] = 1, -1
    constants = {
        "weights": weights,
        "bias": np.array([0, -12.5], np.float32),
        "both": both,
        "below": np.array([-0.95], np.float32),
        "size": np.array([[0, 800 if planted else 0]], np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["own"]),
        helper.make_node("MatMul", ["features", "both"], ["pair"]),
        helper.make_node("Add", ["pair", "below"], ["above"]),
        helper.make_node("Relu", ["above"], ["strength"]),
        helper.make_node("Mul", ["strength", "size"], ["offset"]),
        helper.make_node("Add", ["own", "offset"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("features", TensorProto.FLOAT, ["N", 4])],
        [value("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test")


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
