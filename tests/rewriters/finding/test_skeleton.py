"""A weight-free copy of a model, with inferred shapes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rewriters.finding.skeleton import hollow, of_fixed_size, skeleton

from ..patterns import weight
from .graph_text import text_model

FUNCTION = '<domain: "local", opset_import: ["" : 17, "local" : 1]> {} {} ({}) => ({}) {{ {} }}'


def is_kept(tensor: TensorProto) -> bool:
    return tensor.data_location != TensorProto.EXTERNAL


def shapes(value_infos: object) -> dict[str, tuple[int | str, ...]]:
    return {
        info.name: tuple(dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in value_infos  # type: ignore[attr-defined]
    }


SIZES = {
    "integers": (np.zeros(1024, np.int64), True),
    "too-many-integers": (np.zeros(1025, np.int64), False),
    "short-integers": (np.zeros((32, 32), np.int32), True),
    "bytes": (np.zeros(65, np.uint8), False),
    "floats": (np.zeros((8, 8), np.float32), True),
    "too-many-floats": (np.zeros((5, 13), np.float32), False),
    "scalar": (np.float32(1), True),
}


@pytest.mark.parametrize(("array", "kept"), SIZES.values(), ids=SIZES)
def test_only_small_payloads_are_kept(array: np.ndarray, kept: bool) -> None:
    (tensor,) = hollow(text_model("out = Neg(w)", w=array)).graph.initializer
    assert is_kept(tensor) is kept
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == (
        "w", helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype), list(np.shape(array))
    )  # fmt: skip
    assert bool(tensor.raw_data) is kept
    if kept:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), array)
    else:
        assert [entry.key for entry in tensor.external_data] == ["location"]


def test_tensors_in_other_files_stay_there() -> None:
    model = text_model("out = Neg(w)", w=weight(2))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere")
    (light,) = hollow(model).graph.initializer
    assert not is_kept(light) and not light.raw_data and light.external_data[0].value == "absent"


def test_tensors_in_attributes_and_bodies_are_left_out_too() -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], name="inner", value=numpy_helper.from_array(weight(9, 9), "t"))],
        "", [], [helper.make_tensor_value_info("b", 1, [9, 9])], [numpy_helper.from_array(weight(10, 10), "inner_w")],
    )  # fmt: skip
    model = text_model("out = Neg(x)", "float[B] x, bool c")
    branch = helper.make_node("If", ["c"], ["i"], name="if", domain="", then_branch=inner, else_branch=inner)
    branch.overload = "o"
    branch.metadata_props.add(key="k", value="v")
    small = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(weight(2), "t"))
    ranged = helper.make_node("Any", [], ["r"], axes=[1, 2], mode="m", empty=numpy_helper.from_array(weight(70), "t"))
    model.graph.node.extend([branch, small, ranged])
    _, light, kept, mixed = hollow(model).graph.node
    assert [a.name for a in light.attribute] == [a.name for a in branch.attribute]
    body = light.attribute[0].g
    assert body.name == "graph" and shapes(body.output) == {"b": (9, 9)}
    assert not is_kept(body.node[0].attribute[0].t) and not is_kept(body.initializer[0])
    assert body.node[0].attribute[0].name == "value" and body.node[0].attribute[0].type == onnx.AttributeProto.TENSOR
    for field in ("op_type", "domain", "name", "overload", "input", "output", "metadata_props"):
        assert getattr(light, field) == getattr(branch, field)
    assert kept.op_type == "Constant" and kept.attribute == small.attribute
    assert [a for a in mixed.attribute if a.name != "empty"] == [a for a in ranged.attribute if a.name != "empty"]
    assert not is_kept(next(a.t for a in mixed.attribute if a.name == "empty"))


def test_references_to_attributes_of_a_function_are_kept() -> None:
    node = helper.make_node("Constant", [], ["a"])
    for kind, name in ((onnx.AttributeProto.TENSOR, "value"), (onnx.AttributeProto.GRAPH, "body")):
        node.attribute.add(name=name, type=kind, ref_attr_name="outer")
    model = text_model("out = Neg(x)")
    model.functions.append(helper.make_function("local", "f", [], ["a"], [node], [], attributes=["outer"]))
    (function,) = hollow(model).functions
    assert function.node[0].attribute == model.functions[0].node[0].attribute
    assert function.attribute == ["outer"] and function.name == "f"


def test_functions_and_graphs_keep_all_but_weights() -> None:
    model = text_model(
        "y = Neg(x) out = local.f(y)", functions=FUNCTION.format("f", "<k>", "a", "b", "b = Elu<alpha: float = @k>(a)")
    )
    model.graph.value_info.append(helper.make_tensor_value_info("y", 1, ["B", "S"]))
    light = hollow(model)
    assert light.functions == model.functions and light.opset_import == model.opset_import
    assert light.graph == model.graph and light.ir_version == model.ir_version


def test_sparse_tensors_keep_their_type_and_shape() -> None:
    model = text_model("out = Neg(x)")
    values = numpy_helper.from_array(weight(2), "sparse")
    indices = numpy_helper.from_array(np.array([1, 2]), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5, 6]))
    (dense,) = hollow(model).graph.initializer
    assert (dense.name, dense.data_type, list(dense.dims)) == ("sparse", 1, [5, 6]) and not is_kept(dense)


def test_shapes_are_inferred_and_node_order_stays() -> None:
    inferred = skeleton(text_model("t = Transpose(x) s = Shape(t) out = Reshape(y, s)", "float[B,S] x, float[A] y"))
    assert [node.output[0] for node in inferred.graph.node] == ["t", "s", "out"]
    assert shapes(inferred.graph.value_info)["t"] == ("S", "B")
    assert shapes(inferred.graph.output)["out"] == ("S", "B")


def test_what_cannot_be_inferred_stays_as_it_was_declared(caplog: pytest.LogCaptureFixture) -> None:
    model = text_model("y = Neg(x) out = Neg(y)", "float[B,3] x", "float[B,3] out")
    del model.opset_import[:]
    with caplog.at_level(logging.DEBUG, "rewriters.finding.skeleton"):
        assert skeleton(model) == hollow(model)
    assert "gave up" in caplog.text


def functions_of(
    body: str, functions: str, inputs: str = "float[B,S] x"
) -> dict[str, dict[str, tuple[int | str, ...]]]:
    inferred = skeleton(text_model(body, inputs, functions=functions, w=weight(3, 4)))
    return {function.name: shapes(function.value_info) for function in inferred.functions}


def test_a_function_gets_the_types_of_its_first_call() -> None:
    function = FUNCTION.format("f", "", "a, e", "b", "d = Transpose(a) b = MatMul(d, e)")
    typed = functions_of("y = local.f(x, w) t = Transpose(x) out = local.f(t, w)", function, "float[3,S] x")
    assert typed == {"f": {"a": (3, "S"), "e": (3, 4), "d": ("S", 3), "b": ("S", 4)}}


def test_a_function_that_a_function_calls_is_typed_too() -> None:
    inner = FUNCTION.format("inner", "", "m", "n", "k = Transpose(m) n = Neg(k)")
    outer = FUNCTION.format("outer", "", "a", "b", "d = Transpose(a) b = local.inner(d)")
    typed = functions_of("out = local.outer(x)", inner + " " + outer)
    assert typed["outer"] == {"a": ("B", "S"), "d": ("S", "B"), "b": ("B", "S")}
    assert typed["inner"] == {"m": ("S", "B"), "k": ("B", "S"), "n": ("B", "S")}


def test_a_function_is_typed_through_all_that_it_calls() -> None:
    inner = FUNCTION.format("inner", "", "m", "n", "n = Transpose(m)")
    middle = FUNCTION.format("middle", "", "g", "h", "h = local.inner(g)")
    outer = FUNCTION.format("outer", "", "a", "b", "d = local.middle(a) b = Neg(d)")
    typed = functions_of("out = local.outer(x)", f"{inner} {middle} {outer}")
    assert typed["outer"]["d"] == typed["middle"]["h"] == ("S", "B")


def test_a_function_that_is_called_in_a_branch_is_typed_too() -> None:
    function = FUNCTION.format("f", "", "a", "b", "d = Transpose(a) b = Neg(d)")
    branch = "{0}_branch = {0}g () => (float[M,N] {0}o) {{ {0}t = Transpose(x) {0}o = local.f({0}t) }}"
    body = f"out = If<{branch.format('then')}, {branch.format('else')}>(c)"
    assert functions_of(body, function, "float[B,S] x, bool c")["f"] == {
        "a": ("S", "B"),
        "d": ("B", "S"),
        "b": ("B", "S"),
    }


def test_attributes_of_a_call_stand_for_those_of_its_function() -> None:
    function = FUNCTION.format("f", "<order>", "a", "b", "d = Transpose<perm: ints = @order>(a) b = Neg(d)")
    body = "out = local.f<order = [2, 0, 1]>(x)"
    assert functions_of(body, function, "float[B,S,6] x")["f"]["d"] == (6, "B", "S")


def test_an_attribute_that_a_call_leaves_out_is_left_out() -> None:
    function = FUNCTION.format("f", "<order>", "a", "b", "d = Transpose<perm: ints = @order>(a) b = Neg(d)")
    assert functions_of("out = local.f(x)", function, "float[B,S,6] x")["f"]["d"] == (6, "S", "B")


def test_what_a_function_declares_itself_is_not_said_twice() -> None:
    model = text_model("out = local.f(x)", functions=FUNCTION.format("f", "", "a", "b", "d = Transpose(a) b = Neg(d)"))
    model.functions[0].value_info.append(helper.make_tensor_value_info("d", 1, ["P", "Q"]))
    (function,) = skeleton(model).functions
    assert sorted(info.name for info in function.value_info) == ["a", "b", "d"]
    assert shapes(function.value_info)["d"] == ("P", "Q")


def test_shapes_follow_from_what_a_function_declares_itself() -> None:
    body = "d = local.unknown(a) e = Transpose(d) b = Neg(e)"
    model = text_model("out = local.f(x)", functions=FUNCTION.format("f", "", "a", "b", body))
    model.functions[0].value_info.append(helper.make_tensor_value_info("d", 1, ["P", "Q"]))
    (function,) = skeleton(model).functions
    assert shapes(function.value_info)["e"] == ("Q", "P")


def test_a_function_that_nobody_calls_has_no_types() -> None:
    assert functions_of("out = Neg(x)", FUNCTION.format("f", "", "a", "b", "b = Neg(a)"))["f"] == {}


def test_every_free_axis_gets_a_size() -> None:
    model = text_model(
        "y = Add(x, w) out = Neg(y)", "float[B,S,6] x, float[S] mask, float w", "float[B,S,6] out", w=weight(1)[0]
    )
    model.graph.input[2].type.tensor_type.shape.dim.add()
    model.graph.value_info.append(helper.make_tensor_value_info("y", 1, ["B", "S", 6]))
    probe = of_fixed_size(model, 13, 11)
    assert shapes(probe.graph.input) == {"x": (13, 11, 6), "mask": (13,), "w": (0,)}
    assert not probe.graph.input[2].type.tensor_type.shape.dim[0].HasField("dim_value")
    assert not probe.graph.value_info
    assert not probe.graph.output[0].type.tensor_type.HasField("shape")
    assert shapes(model.graph.input)["x"] == ("B", "S", 6) and model.graph.value_info


def test_models_in_files_are_not_read(tmp_path: Path) -> None:
    model = text_model("out = MatMul(x, w)", "float[B,30] x", w=weight(30, 40))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    (tmp_path / "w.bin").unlink()
    lazy = onnx.load_model(tmp_path / "m.onnx", load_external_data=False)
    assert shapes(skeleton(lazy).graph.output) == {"out": ("B", 40)}
