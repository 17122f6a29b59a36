"""Inputs of a named shape, suited to the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atpatch_onnx import AtpatchError
from atpatch_onnx.benchmark.inputs import LENGTH, parse_shape, random_inputs, table_rows

from .case import WORDS, token_model


def graph(
    nodes: list[onnx.NodeProto],
    tables: dict[str, tuple[int, ...]],
    inputs: dict[str, tuple[int, list[str | int | None]]],
):
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape, np.float32))
        for name, shape in tables.items()
    ]
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    return helper.make_model(helper.make_graph(nodes, "g", infos, [], tensors))


def test_a_shape_is_sizes_by_name():
    assert parse_shape("batch=8, sequence=128") == {"batch": 8, "sequence": 128}


@pytest.mark.parametrize("text", ["", "batch", "batch=0", "batch=-1", "=4", "batch=2,batch=3", "batch=1.5"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(AtpatchError, match="ATP060"):
        parse_shape(text)


def test_axes_take_their_sizes_and_ids_stay_within_their_table():
    inputs = random_inputs(token_model(), {"batch": 50, "sequence": 40})
    assert {name: array.shape for name, array in inputs.items()} == {"input_ids": (50, 40), "attention_mask": (50, 40)}
    assert (inputs["input_ids"].min(), inputs["input_ids"].max()) == (0, WORDS - 1)
    assert (inputs["attention_mask"] == 1).all()


def test_without_sizes_the_batch_is_one():
    assert random_inputs(token_model(), {})["input_ids"].shape == (1, LENGTH)


def test_a_seed_gives_the_same_request_again():
    first, again, other = (random_inputs(token_model(), {}, seed)["input_ids"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_axes_are_refused_with_the_known_ones():
    with pytest.raises(AtpatchError) as caught:
        random_inputs(token_model(), {"length": 3})
    assert "'length'" in caught.value.what
    assert "sequence" in caught.value.fix


def test_nameless_axes_and_sums():
    model = graph(
        [], {}, {"x": (TensorProto.FLOAT, [None, 5, None]), "mask": (TensorProto.BOOL, ["batch", "past + sequence"])}
    )
    inputs = random_inputs(model, {"x.2": 7, "past": 3, "sequence": 4})
    assert (inputs["x"].shape, inputs["x"].dtype) == ((1, 5, 7), np.float32)
    assert inputs["mask"].shape == (1, 7)
    assert inputs["mask"].all()


def test_texts_are_refused():
    with pytest.raises(AtpatchError, match="'s'"):
        random_inputs(graph([], {}, {"s": (TensorProto.STRING, ["batch"])}), {})


node = helper.make_node


@pytest.mark.parametrize(("nodes", "rows"), [
    ([node("Cast", ["ids"], ["i32"], to=TensorProto.INT32), node("Gather", ["table", "i32"], ["y"])], {"ids": 7}),
    ([node("Gather", ["table", "ids"], ["y"]), node("Gather", ["small", "ids"], ["z"])], {"ids": 3}),
    ([node("DequantizeLinear", ["table", "scale"], ["floats"]), node("Gather", ["floats", "ids"], ["y"])], {"ids": 7}),
    ([node("Transpose", ["table"], ["turned"], perm=[1, 0]), node("Gather", ["turned", "ids"], ["y"])], {"ids": 4}),
    ([node("EmbedLayerNormalization", ["ids", "", "table", "small"], ["y"], domain="com.microsoft")], {"ids": 7}),
    ([node("Gather", ["table", "ids"], ["y"], axis=1)], {}),
    ([node("Gather", ["ids", "table"], ["y"])], {}),
], ids=["cast", "smallest", "quantized", "turned", "fused", "other axis", "data, not index"])  # fmt: skip
def test_tables_are_found(nodes, rows):
    assert table_rows(graph(nodes, {"table": (7, 4), "small": (3, 4)}, {"ids": (TensorProto.INT64, ["batch"])})) == rows
