"""Which values and nodes of one body depend on each other."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from rewriters.model.bodies import needed, reads


def clip(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Clip", [source, "", "most"], [result])


def test_an_input_that_is_left_out_is_no_value() -> None:
    assert reads(clip("x", "y")) == {"x", "most"}


def test_values_that_subgraphs_capture_are_read() -> None:
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([clip("x", "y")], "branch", [], [given])
    gate = helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch)
    assert reads(gate) == {"flag", "x", "most", "y"}


def test_nothing_depends_on_an_output_that_is_left_out() -> None:
    """As of norms without their statistics, in graphs whose other operators leave an input out."""
    norm = helper.make_node("SkipLayerNormalization", ["a", "b", "scale"], ["normed", "", ""])
    last = clip("x", "y")
    assert needed([norm, last], ["y"]) == [last]


def test_what_is_needed_stays_in_the_order_that_the_nodes_have() -> None:
    """onnxruntime runs nodes in any order, and its half precision converter writes such models."""
    chain = [clip("x", "a"), clip("a", "b"), clip("b", "y"), clip("b", "unread")]
    assert needed(chain, ["y"]) == chain[:3]
    assert needed(chain[::-1], ["y"]) == chain[2::-1]
