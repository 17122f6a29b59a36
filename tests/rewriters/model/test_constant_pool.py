"""Constants of a patch, and which ones of the model take their place."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rewriters.model.constant_pool import ConstantPool, whole_numbers

AXES = np.array([1, 2])


def graph(*tensors: TensorProto, fed: tuple[str, ...] = ()) -> onnx.GraphProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in fed]
    return helper.make_graph([], "g", inputs, [], list(tensors))


def test_equal_constants_are_one() -> None:
    made = graph()
    pool = ConstantPool(made.initializer, "c")
    names = [pool.name(np.asarray(value), []) for value in (AXES, AXES.copy(), [1, 2, 3], np.float32(1), np.float64(1))]
    assert names[0] == names[1] and len(set(names)) == 4
    assert [tensor.name for tensor in made.initializer] == list(dict.fromkeys(names))


def test_a_constant_of_the_model_takes_the_place_of_an_equal_one() -> None:
    made = graph(numpy_helper.from_array(AXES, "axes"))
    pool, nodes = ConstantPool(made.initializer, "c", whole_numbers(made)), []
    assert pool.name(AXES, nodes) == "axes"
    assert {pool.name(AXES + 1, nodes), pool.name(AXES[:1], nodes)}.isdisjoint({"axes"})
    assert len(made.initializer) == 3 and not nodes


def test_only_short_whole_numbers_that_no_request_changes() -> None:
    outside = numpy_helper.from_array(AXES + 3, "outside")
    outside.data_location = TensorProto.EXTERNAL
    made = graph(
        numpy_helper.from_array(AXES, "axes"),
        numpy_helper.from_array(np.int64(0), "zero"),
        numpy_helper.from_array(np.float32(1), "one"),
        numpy_helper.from_array(AXES.astype(np.int32), "short"),
        numpy_helper.from_array(AXES[None], "table"),
        numpy_helper.from_array(AXES + 7, "given"),
        outside,
        fed=("given",),
    )
    assert whole_numbers(made).keys() == {"axes", "zero"}
