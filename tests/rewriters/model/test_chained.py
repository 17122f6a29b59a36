"""Two models as one graph, of models that are written by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator

from rewriters.editing.edits import refill
from rewriters.model.chained import chained, not_chained

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'
FIRST = f"""{HEADER} first (int64[N] ids, float[1] atpatch_threshold) => (float[N] states, bool[N] atpatch_flagged)
<float[1] weight = {{2}}, float[1] atpatch_threshold = {{5}}> {{
    floats = Cast <to = 1> (ids)
    states = Mul (floats, weight)
    atpatch_flagged = Greater (states, atpatch_threshold)
}}"""
SECOND = f"""{HEADER} second (int64[M] ids, float[N] read, float[1] atpatch_threshold, float[P] past)
=> (float[M] scores, float[Q] present) <float[1] weight = {{3}}, float[1] atpatch_threshold = {{5}}> {{
    floats = Cast <to = 1> (ids)
    total = ReduceSum <keepdims = 0> (read)
    large = Greater (total, atpatch_threshold)
    scores = If (large) <
        then_branch = then () => (float[M] picked) {{ picked = Mul (floats, weight) }},
        else_branch = other () => (float[M] picked) {{ same = Identity (weight) picked = Add (same, total) }}
    >
    present = Concat <axis = 0> (past, scores)
}}"""
GIVEN = {"read": "states", "ids": "said"}


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model(text)


def joined() -> onnx.ModelProto:
    return chained(parsed(FIRST), parsed(SECOND), "second", GIVEN, ["scores"], ["atpatch_flagged"])


def run(model: onnx.ModelProto, *outputs: str, **feeds: np.ndarray) -> list[np.ndarray]:
    return ReferenceEvaluator(model).run([*outputs], feeds)  # type: ignore[return-value]


@pytest.mark.parametrize("ids", [[1, 2], [0, 1]], ids=["the first branch", "the other branch"])
def test_it_answers_as_both_do_in_turn(ids: list[int]) -> None:
    model, threshold = joined(), np.array([5], np.float32)
    onnx.checker.check_model(model, full_check=True)
    feeds = {"ids": np.array(ids), "atpatch_threshold": threshold}
    states, flagged = run(parsed(FIRST), "states", "atpatch_flagged", **feeds)
    said, past = np.array([4, 7, 9]), np.zeros(0, np.float32)
    (want,) = run(parsed(SECOND), "scores", ids=said, read=states, past=past, atpatch_threshold=threshold)
    got, told = run(model, "scores", "atpatch_flagged", said=said, **feeds)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(told, flagged)


def test_what_it_reads_and_gives_out() -> None:
    """Controls that both have are one input, and what only caches need is gone."""
    graph = joined().graph
    assert [value.name for value in graph.input] == ["ids", "atpatch_threshold", "said"]
    assert [value.name for value in graph.output] == ["atpatch_flagged", "scores"]
    assert [tensor.name for tensor in graph.initializer] == ["weight", "atpatch_threshold", "second/weight"]
    assert "Concat" not in {node.op_type for node in graph.node}


def test_nodes_of_the_second_may_stand_in_any_order() -> None:
    second = parsed(SECOND)
    refill(second.graph.node, list(second.graph.node)[::-1])
    made = chained(parsed(FIRST), second, "second", GIVEN, ["scores"], ["atpatch_flagged"])
    wanted = {output for node in joined().graph.node for output in node.output}
    assert {output for node in made.graph.node for output in node.output} == wanted


def test_metadata_are_those_of_the_first() -> None:
    first, second = parsed(FIRST), parsed(SECOND)
    for model, value in ((first, "encoder"), (second, "decoder")):
        model.metadata_props.add(key="atpatch.hotfix", value=value)
    made = chained(first, second, "second", GIVEN, ["scores"])
    assert [entry.value for entry in made.metadata_props] == ["encoder"]


def test_versions_of_one_operator_set_have_to_agree() -> None:
    assert not_chained(parsed(FIRST), parsed(SECOND)) is None
    older = parsed(SECOND.replace("18", "17"))
    assert "versions 18 and 17" in str(not_chained(parsed(FIRST), older))


def test_functions_of_one_name_have_to_agree() -> None:
    body = """<domain: "own", opset_import: ["" : 18]> twice (x) => (y) { y = Add (x, x) }"""
    first, second = parsed(FIRST), parsed(SECOND)
    first.functions.append(parser.parse_function(body))
    second.functions.append(parser.parse_function(body))
    assert not_chained(first, second) is None
    assert len(chained(first, second, "second", GIVEN, ["scores"]).functions) == 1
    second.functions[0].CopyFrom(parser.parse_function(body.replace("Add", "Mul")))
    assert "function twice" in str(not_chained(first, second))
