"""Constants that do not look like trained weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from atpatch_onnx.auditing.graph_logic import check_graph

from .graphs import codes, text

TWO_TABLES = "more = Gather (second, read)\nwords = Add (found, more)"


def tables(second: np.ndarray) -> onnx.ModelProto:
    model = text(TWO_TABLES, outputs="float[B, 3] scores")
    model.graph.initializer.append(numpy_helper.from_array(second.astype(np.float32), "second"))
    return model


def said(model: onnx.ModelProto, path: Path | None = None) -> set[str]:
    return {one.code for one in check_graph(model, path).findings}


def test_a_table_with_a_few_rows_unlike_all_others_is_found() -> None:
    second = np.zeros((2000, 8))
    assert said(tables(second)) == set()
    second[777] = 5
    assert said(tables(second)) == {"AUD121"}
    assert said(tables(np.random.default_rng(3).normal(size=(2000, 8)))) == set()


def test_the_same_table_in_a_file_next_to_the_model(tmp_path: Path) -> None:
    second = np.zeros((2000, 8))
    second[1500] = 5
    path = tmp_path / "model.onnx"
    onnx.save(tables(second), path, save_as_external_data=True, location="weights", size_threshold=100)
    model = onnx.load(path, load_external_data=False)
    assert said(model, path) == {"AUD121"}
    untried = [one.why for one in check_graph(model, None).not_tried]
    assert any("second" in why for why in untried) and any("external" in why for why in untried)


def test_two_nearly_equal_weights_are_found() -> None:
    model = tables(np.random.default_rng(3).normal(size=(2000, 8)))
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    second = next(tensor for tensor in model.graph.initializer if tensor.name == "second")
    array = numpy_helper.to_array(table).copy()
    second.CopyFrom(numpy_helper.from_array(array, "second"))
    assert said(model) == set()
    array[777] += 3
    second.CopyFrom(numpy_helper.from_array(array, "second"))
    assert said(model) == {"AUD122"}


def test_weights_that_are_written_over_in_the_graph_are_found() -> None:
    changed = """
        places = Unsqueeze (one, one_axis)
        edited = ScatterND (table, places, fresh)
        more = Gather (edited, read)
        words = Add (found, more)
    """
    model = text(changed.replace("one_axis", "last"), outputs="float[B, 3] scores")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 8), np.float32), "fresh"))
    assert said(model) == {"AUD123"}
    assert codes("w3 = Transpose (w1)\nx = MatMul (flat, w3)\nlogits = Gemm (x, head, bias)") == set()
