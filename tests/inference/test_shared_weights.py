"""Weights in a file of their own: the same model in every respect, and nothing left behind."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.prediction import class_scores
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.inference.shared_weights import ALIGNMENT, with_shared_weights
from rewriters.model import io as model_io

HERE = Path()
WIDTH = 150
"""150 × 150 floats are more than 64 KiB, and no whole number of pages."""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("first", "second")}
    arrays["small"] = generator.normal(size=WIDTH).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("Add", ["a", "small"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["scores"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("x", "scores")]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scores(model: onnx.ModelProto, folder: Path) -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(7, WIDTH)).astype(np.float32)
    return class_scores(Runner(model, folder, 1), DataSet({"x": rows}), np.arange(7), "scores")


def test_only_large_tensors_move_and_every_bit_of_the_scores_stays(model):
    before = model.SerializeToString(deterministic=True)
    with with_shared_weights(model, HERE) as (shared, folder):
        apart = [tensor for tensor in shared.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
        assert [tensor.name for tensor in apart] == ["first", "second"]
        places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in apart]
        assert all(int(place["offset"]) % ALIGNMENT == 0 for place in places)
        assert shared.ByteSize() < 4096
        assert scores(shared, folder).tobytes() == scores(model, HERE).tobytes()
        assert model_io.weights_digest(shared, folder) == model_io.weights_digest(model, HERE)
    assert model.SerializeToString(deterministic=True) == before


def test_the_file_is_gone_afterwards_even_where_a_fit_fails(model):
    with pytest.raises(KeyError), with_shared_weights(model, HERE) as (_, folder):
        assert folder.is_dir()
        raise KeyError
    assert not folder.exists()


def test_a_model_with_external_data_stays_as_it_is(model):
    with with_shared_weights(model, HERE) as (shared, folder), with_shared_weights(shared, folder) as (again, same):
        assert again is shared and same == folder


def test_a_model_stays_as_it_is_where_no_file_can_be_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with with_shared_weights(model, HERE) as (shared, folder):
        assert shared is model and folder == HERE
