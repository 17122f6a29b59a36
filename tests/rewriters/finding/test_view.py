"""The index over every body of a model."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from rewriters.finding.view import attribute, is_standard, operand

from ..patterns import weight
from .graph_text import read

BRANCHES = (
    "out = If<then_branch = t () => (float[1] ta) { ta = Neg(w) }, else_branch = e () => (float[1] ea)"
    " { ea = Relu(x) }>(c)"
)
FUNCTION = '<domain: "local", opset_import: ["" : 13]> {} ({}) => ({}) {{ {} }}'


def test_homes_say_where_nodes_live() -> None:
    function = FUNCTION.format("twice", "a", "b", "d = Neg(a) b = Neg(d)")
    reading = read(f"y = local.twice(x) {BRANCHES}", "float[1] x, bool c", functions=function, w=weight(1))
    homes = {node.outputs[0].name: home for node, home in reading.view.homes.items()}
    assert list(homes) == ["y", "ta", "ea", "out", "d", "b"]
    assert [homes[name].where for name in ("y", "ta", "ea", "b")] == [
        (), ((1, "then_branch"),), ((1, "else_branch"),), ((0, "function"),)
    ]  # fmt: skip
    assert [homes[name].index for name in ("y", "out", "ta", "b")] == [0, 1, 0, 1]
    assert [homes[name].opset for name in ("y", "ta", "b")] == [17, 17, 13]


def test_values_are_the_same_across_the_borders_of_bodies() -> None:
    function = FUNCTION.format("twice", "a", "b", "b = Neg(a)")
    reading = read(f"y = local.twice(x) {BRANCHES}", "float[1] x, bool c", functions=function, w=weight(1))
    view, value = reading.view, reading.__getitem__
    assert view.forward[value("x")] == [value("a")] and view.backward[value("a")] == [value("x")]
    assert view.forward[value("b")] == [value("y")]
    assert view.backward[value("out")] == [value("ta"), value("ea")]
    assert value("c") not in view.forward
    assert view.function(reading.node("y")) is not None and view.function(reading.node("out")) is None


def test_a_loop_carries_no_value_out_as_it_is() -> None:
    loop = "(int64 i, bool go, float[1] s) => (bool go2, float[1] t) { go2 = Identity(go) t = Neg(s) }"
    reading = read(f'out = Loop<body = b {loop}>("", c, x)', "float[1] x, bool c")
    assert not reading.view.backward
    assert reading.view.homes[reading.node("t")].where == ((0, "body"),)


CONSTANT = {
    "initializer": ("out = Neg(x)", "w", True),
    "input": ("out = Neg(x)", "x", False),
    "computed-from-constants": ("a = Neg(w) out = Add(a, w)", "out", True),
    "computed-from-one-input": ("out = Add(x, w)", "out", False),
    "constant-node": ("out = Constant<value_float = 1.0>()", "out", True),
    "node-without-inputs": ("out = com.microsoft.Unknown()", "out", False),
    "random": ("out = RandomNormalLike(w)", "out", False),
    "drawn": ("out = Bernoulli(w)", "out", False),
    "chosen-by-an-input": (BRANCHES, "out", False),
    "chosen-by-a-constant": (BRANCHES.replace("(c)", "(w)").replace("Relu(x)", "Relu(w)"), "out", False),
    "inside-a-branch": (BRANCHES, "ta", True),
    "inside-a-branch-from-outside": (BRANCHES, "ea", False),
    "inside-a-function-of-a-constant": ("out = local.twice(w)", "b", True),
    "inside-a-function-of-an-input": ("out = local.twice(x)", "b", False),
    "inside-a-function-of-both": ("y = local.twice(x) out = local.twice(w)", "b", False),
    "inside-a-function-inside": ("out = local.outer(w)", "b", True),
    "inside-a-function-nobody-calls": ("out = Neg(w)", "b", False),
}  # fmt: skip


@pytest.mark.parametrize(("body", "name", "constant"), CONSTANT.values(), ids=CONSTANT)
def test_is_constant(body: str, name: str, constant: bool) -> None:
    functions = FUNCTION.format("twice", "a", "b", "b = Neg(a)")
    if "outer" in body:  # defined behind what it calls
        functions += FUNCTION.format("outer", "g", "h", "h = local.twice(g)").replace('"" : 13', '"" : 13, "local" : 1')
    reading = read(body, "float[1] x, bool c", functions=functions, w=weight(1))
    assert reading.view.is_constant(reading[name]) is constant
    assert reading.view.is_constant(None)


def test_functions_are_swept_after_all_their_callers() -> None:
    """Whether a parameter is constant is known once every caller is."""
    header = '<domain: "local", opset_import: ["" : 13, "local" : 1]>'
    functions = (
        f"{header} inner (a) => (b) {{ b = Neg(a) }} {header} middle (m) => (n) {{ n = local.inner(m) }}"
        f" {header} outer (g) => (h) {{ k = local.inner(g) h = local.middle(k) }}"
    )
    reading = read("out = local.outer(w)", functions=functions, w=weight(1))
    assert all(reading.view.is_constant(reading[name]) for name in "gkmab")
    reading = read("y = local.outer(w) out = local.inner(x)", functions=functions, w=weight(1))
    assert [reading.view.is_constant(reading[name]) for name in "gmab"] == [True, True, False, False]


def test_functions_that_call_each_other_are_swept_all_the_same() -> None:
    header = '<domain: "local", opset_import: ["" : 13, "local" : 1]>'
    g = f"{header} g (c) => (d) {{ d = local.f(c) e = Constant<value_int = 1>() }}"
    functions = f"{header} f (a) => (b) {{ b = local.g(a) }} {g}"
    reading = read("out = local.f(w)", functions=functions, w=weight(1))
    assert reading.view.is_constant(reading["e"])


def test_position_of_an_input_goes_through_borders() -> None:
    reading = read(
        "out = local.second(w, x)", functions=FUNCTION.format("second", "a, b", "d", "d = Add(a, b)"), w=weight(1)
    )
    call, inner = reading.node("out"), reading.node("d")
    assert reading.view.position(call, reading["x"]) == 1
    assert reading.view.position(call, reading["w"]) == 0
    assert reading.view.position(inner, reading["x"]) == 1
    assert reading.view.position(inner, reading["b"]) == 1
    assert reading.view.position(inner, reading["out"]) == 0


def test_attributes_of_another_type_than_their_name_are_absent() -> None:
    node = ir.Node("", "Any", [], [ir.AttrInt64("axis", 2), ir.AttrString("perm", "1"), ir.AttrInt64("free", 3)])
    assert attribute(node, "axis") == 2 and attribute(node, "axis", 0) == 2
    assert attribute(node, "perm") is None and attribute(node, "perm", (1,)) == (1,)
    assert attribute(node, "free") == 3 and attribute(node, "missing", 4) == 4


def test_attributes_that_refer_to_those_of_a_function_are_absent() -> None:
    node = ir.Node("", "Any", [], [ir.RefAttr("axis", "outer", ir.AttributeType.INT)])
    assert attribute(node, "axis", -1) == -1


def test_operands_left_out_are_none() -> None:
    value = ir.Value(name="v")
    node = ir.Node("", "Any", [value, None, value])
    assert [operand(node, index) for index in range(4)] == [value, None, value, None]


def test_the_default_domain_has_two_names() -> None:
    assert [is_standard(ir.Node(domain, "Any", [])) for domain in ("", "ai.onnx", "com.microsoft")] == [
        True,
        True,
        False,
    ]
    assert read("out = Neg(x)").view.homes and read("out = Neg(x)").view.function(ir.Node("", "Neg", [])) is None
