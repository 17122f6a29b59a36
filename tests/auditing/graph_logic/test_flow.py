"""Models of every shape end in findings or in one clear line, and soon."""

from __future__ import annotations

import time

import onnx
from onnx import TensorProto, helper, parser

from atpatch_onnx.auditing.graph_logic import check_graph

from .graphs import text


def model(nodes: list[onnx.NodeProto], *weights: onnx.TensorProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [x], [y], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def calls(levels: int, body: str) -> onnx.ModelProto:
    """Functions that call each other, each the one below it."""
    source = '<ir_version: 10, opset_import: ["" : 21, "f" : 1]>\n'
    source += f"g (float[N] x) => (float[N] y) {{ y = f.F{levels} (x) }}\n"
    source += '<domain: "f", opset_import: ["" : 21]>\nF0 (a) => (b) { b = Neg (a) }\n'
    for level in range(1, levels + 1):
        head = f'<domain: "f", opset_import: ["" : 21, "f" : 1]>\nF{level} (a) => (b) '
        source += f"{head}{{ {body.format(level - 1)} }}\n"
    return parser.parse_model(source)


def test_a_cycle_is_not_tried() -> None:
    cyclic = model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])])
    (untried,) = check_graph(cyclic, None).not_tried
    assert "cycle" in untried.why


def test_nodes_in_any_order_are_followed() -> None:
    mixed = text("t_same = Equal (ids, word)\nlogits = Identity (scores)")
    ordered = list(mixed.graph.node)
    del mixed.graph.node[:]
    mixed.graph.node.extend(reversed(ordered))
    assert check_graph(mixed, None).not_tried == ()


def test_calls_nested_too_deep_are_not_tried() -> None:
    (untried,) = check_graph(calls(80, "b = f.F{} (a)"), None).not_tried
    assert "deep" in untried.why


def test_a_function_that_calls_itself_is_not_tried() -> None:
    itself = calls(2, "b = f.F{} (a)")
    itself.functions[0].node[0].CopyFrom(helper.make_node("F2", ["a"], ["b"], domain="f"))
    assert "deep" in check_graph(itself, None).not_tried[0].why


def test_calls_that_multiply_are_not_tried() -> None:
    started = time.perf_counter()
    (untried,) = check_graph(calls(30, "c = f.F{0} (a)\n d = f.F{0} (c)\n b = Add (c, d)"), None).not_tried
    assert "more than" in untried.why and time.perf_counter() - started < 10


def test_shapes_of_any_size_are_harmless() -> None:
    vast = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    vast.dims[:] = [1 << 40, 1 << 20]
    vast.data_location = TensorProto.EXTERNAL
    vast.ClearField("float_data")
    vast.external_data.add(key="location", value="weights")
    checked = check_graph(model([helper.make_node("MatMul", ["x", "w"], ["y"])], vast), None)
    assert checked.findings == () and checked.not_tried


def test_ten_thousand_nodes_take_seconds() -> None:
    nodes = [helper.make_node("Neg", ["x" if n == 0 else f"v{n - 1}"], [f"v{n}"]) for n in range(10_000)]
    nodes.append(helper.make_node("Neg", ["v9999"], ["y"]))
    started = time.perf_counter()
    assert check_graph(model(nodes), None).findings == ()
    assert time.perf_counter() - started < 30


def test_what_a_foreign_operator_does_is_not_known() -> None:
    foreign = text("logits = Identity (other_scores)\nother_scores = own.Secret (scores)")
    ordered = list(foreign.graph.node)
    del foreign.graph.node[:]
    foreign.graph.node.extend([*ordered[:-2], ordered[-1], ordered[-2]])
    checked = check_graph(foreign, None)
    assert [one.code for one in checked.findings] == ["AUD132"]
    assert "own.Secret" in checked.not_tried[0].why
