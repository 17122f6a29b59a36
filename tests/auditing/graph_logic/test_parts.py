"""Parts of a model that no exporter leaves in it."""

from __future__ import annotations

import onnx
from onnx import parser

from atpatch_onnx.auditing.graph_logic import check_graph

CALLED = """
<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[N, 4] x) => (float[N, 4] y) { y = local.Twice (x) }
<domain: "local", opset_import: ["" : 21]>
Twice (a) => (b) { b = Add (a, a) }
"""


def test_a_function_that_is_called_is_ordinary_and_one_that_nothing_calls_is_noted() -> None:
    model = parser.parse_model(CALLED)
    assert check_graph(model, None).findings == ()
    model.functions.append(
        onnx.helper.make_function(
            "local",
            "Spare",
            ["a"],
            ["b"],
            [onnx.helper.make_node("Neg", ["a"], ["b"])],
            [onnx.helper.make_opsetid("", 21)],
        )
    )
    (found,) = check_graph(model, None).findings
    assert (found.code, found.severity, found.where) == ("AUD131", "note", "function Spare")
