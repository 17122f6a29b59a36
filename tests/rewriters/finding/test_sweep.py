"""One sweep over a model learns shapes, elements and types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from rewriters.finding.sweep import gather_facts
from rewriters.finding.view import build_view

from .reading import Reading, read


def uninferred(
    inputs: str, nodes: str, outputs: str = "float[?] unused", constants: str = "", rest: str = "", opset: int = 17
) -> Reading:
    """As the file has it, without onnx's own inference."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}, "local" : 1]>
    g ({inputs}) => ({outputs}) <{constants}> {{ {nodes} }} {rest}"""
    view = build_view(ir.from_proto(onnx.parser.parse_model(text)))
    values = {str(value.name): value for value in (*view.model.graph.inputs, *view.model.graph.initializers.values())}
    values |= {str(value.name): value for node in view.homes for value in node.outputs}
    values |= {str(value.name): value for function in view.model.functions.values() for value in function.inputs}
    return Reading(view, gather_facts(view), values)


@pytest.mark.parametrize(
    ("constant", "shape", "elements", "kind"),
    [
        ("Constant<value = int64[2] {3, 4}>()", (2,), (3, 4), ir.DataType.INT64),
        ("Constant<value = int32 {3}>()", (), (3,), ir.DataType.INT32),
        ("Constant<value = int64[1,2] {3, 4}>()", (1, 2), None, ir.DataType.INT64),
        ("Constant<value = float[2] {3, 4}>()", (2,), None, ir.DataType.FLOAT),
        ("Constant<value_int = 5>()", (), (5,), None),
        ("Constant<value_ints = [5, 6]>()", (2,), (5, 6), None),
        ("Constant<value_float = 5.0>()", (), None, None),
    ],
)
def test_constants(
    constant: str, shape: tuple[int, ...], elements: tuple[int, ...] | None, kind: ir.DataType | None
) -> None:
    graph = uninferred("float x", f"y = {constant}")
    assert graph.facts.shape(graph["y"]) == shape
    assert graph.facts.elements.get(graph["y"]) == elements
    if kind is not None:
        assert graph.facts.element_type(graph["y"]) == kind


def test_a_constant_of_words_has_no_known_shape() -> None:
    graph = uninferred("float x", 'y = Constant<value_string = "a">()')
    assert graph.facts.shape(graph["y"]) is None


def test_initializers() -> None:
    graph = uninferred(
        "float x", "y = Identity(n)", constants="int64[2] n = {3,4}, float[1,2] w = {1,2}, int64[1,2] m = {1,2}"
    )
    assert graph.facts.shape(graph["n"]) == (2,) and graph.facts.ints(graph["n"]) == (3, 4)
    assert graph.facts.shape(graph["w"]) == (1, 2) and graph.facts.ints(graph["w"]) is None
    assert graph.facts.ints(graph["m"]) is None


def test_inputs_have_the_shapes_they_declare() -> None:
    graph = uninferred("float[B,3] x, float[] u", "y = Relu(x) z = Relu(u)")
    assert graph.facts.shape(graph["x"]) == ("B", 3) == graph.facts.shape(graph["y"])
    assert graph.facts.shape(graph["u"]) is graph.facts.shape(graph["z"]) is None


def test_open_dimensions_get_names_of_their_own() -> None:
    graph = uninferred("float[?,3] x, float[?,3] z", "y = Relu(x)")
    x, z = graph.facts.shapes[graph["x"]], graph.facts.shapes[graph["z"]]
    assert x[1] == z[1] == 3 and x[0] != z[0]
    assert graph.facts.shape(graph["y"]) == x


def test_shapes_are_computed_from_shapes() -> None:
    graph = uninferred(
        "float[B,K,8] x",
        "s = Shape(x) b = Gather(s, zero) e = Unsqueeze(b, axis) t = Concat<axis = 0>(e, rest) y = Reshape(x, t)",
        constants="int64 zero = {0}, int64[1] axis = {0}, int64[3] rest = {-1,2,4}",
    )
    assert graph.facts.elements[graph["s"]] == ("B", "K", 8)
    assert graph.facts.elements[graph["t"]] == ("B", -1, 2, 4)
    assert graph.facts.shape(graph["y"]) == ("B", "K", 2, 4)


def test_types_pass_on() -> None:
    graph = uninferred("float16[2] x", "a = Relu(x) y = Tanh(a)")
    assert graph.facts.element_type(graph["y"]) == ir.DataType.FLOAT16


def test_a_transpose_tells_the_rank_of_what_it_reads() -> None:
    graph = uninferred("float[] x", "y = Transpose<perm = [0,2,1]>(x) z = Transpose(x)")
    assert graph.facts.rank(graph["x"]) == 3


def test_a_transpose_without_order_tells_no_rank() -> None:
    graph = uninferred("float[] x", "z = Transpose(x)")
    assert graph.facts.rank(graph["x"]) is None


LOCAL = '<domain: "local", opset_import: ["" : 17]> {} ({}) => ({}) {{ {} }}'


def test_a_function_is_swept_with_the_arguments_of_its_first_call() -> None:
    rest = LOCAL.format("F", "a, b", "c", "d = Relu(b) c = Tanh(d)")
    graph = uninferred("float16[B,3] x, float16[B,4] z", "y = local.F(z, x) w = local.F(x, z) v = Relu(y)", rest=rest)
    assert graph.facts.shape(graph["b"]) == ("B", 3) == graph.facts.shape(graph["d"]) == graph.facts.shape(graph["c"])
    assert graph.facts.shape(graph["a"]) == ("B", 4)
    assert graph.facts.element_type(graph["d"]) == ir.DataType.FLOAT16
    assert graph.facts.shape(graph["v"]) == ("B", 3)


def test_a_parameter_of_unknown_shape_has_the_rank_that_its_reader_tells() -> None:
    rest = LOCAL.format("F", "a", "c", "c = Transpose<perm = [0,2,1]>(a)")
    graph = uninferred("float[] x", "y = local.F(x)", rest=rest)
    a, c = graph.facts.shapes[graph["a"]], graph.facts.shapes[graph["c"]]
    assert len(a) == 3 and (c[0], c[1], c[2]) == (a[0], a[2], a[1])


def test_a_function_that_nobody_calls_is_swept() -> None:
    rest = LOCAL.format("F", "a", "c", "s = Constant<value_ints = [2,3]>() c = Expand(a, s)")
    graph = uninferred("float[2] x", "y = Relu(x)", rest=rest)
    assert graph.facts.ints(graph["s"]) == (2, 3)


def test_bodies_are_swept() -> None:
    body = "{} = {} () => (float[?,?] {}) {{ {} }}"
    branches = ", ".join(
        (
            body.format("then_branch", "a", "t", "t = Relu(x)"),
            body.format("else_branch", "b", "e", "e = Tanh(x)"),
        )
    )
    graph = uninferred("bool c, float[B,3] x", f"y = If (c) <{branches}> z = Relu(y)")
    assert graph.facts.shape(graph["t"]) == ("B", 3) == graph.facts.shape(graph["y"]) == graph.facts.shape(graph["z"])


def test_a_declared_shape_is_kept_and_an_open_one_is_filled() -> None:
    graph = read(
        "float[B,3] x", "y = com.microsoft.FastGelu(x) w = com.microsoft.FastGelu(z)", constants="float[2] z = {1,2}"
    )
    assert graph.facts.shape(graph["y"]) == ("B", 3)
    assert graph.facts.shape(graph["w"]) == (2,)


def test_a_split_has_several_shapes() -> None:
    graph = uninferred("float[B,6] x", "y, z = Split<axis = 1>(x, n)", constants="int64[2] n = {2,4}")
    assert graph.facts.shape(graph["y"]) == ("B", 2) and graph.facts.shape(graph["z"]) == ("B", 4)


def test_numbers_in_another_file_are_not_read() -> None:
    tensor = onnx.numpy_helper.from_array(np.array([3, 4]), "n")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="nowhere.bin")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["n"], ["y"])], "g", [], [], [tensor])
    view = build_view(ir.from_proto(onnx.helper.make_model(graph)))
    facts = gather_facts(view)
    (n,) = view.model.graph.initializers.values()
    assert facts.shape(n) == (2,) and facts.ints(n) is None
