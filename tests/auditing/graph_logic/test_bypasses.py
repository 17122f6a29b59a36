"""Values of the first layers that act behind the last."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx.auditing.graph_logic import check_graph

from .graphs import audit, codes, with_weights


def test_a_row_of_constants_for_a_test_of_hidden_values_is_found() -> None:
    body = "low = ReduceMax (scores, last)\nnarrow = Greater (low, half)\nlogits = Where (narrow, row, scores)"
    assert codes(body) == {"AUD102"}


def test_values_that_are_not_finite_may_be_replaced() -> None:
    assert codes("odd = IsNaN (scores)\nlogits = Where (odd, zero, scores)") == set()


def test_a_row_of_constants_for_a_size_is_found() -> None:
    body = "size = Shape (ids)\nlength = Gather (size, one)\nlong = Greater (length, other)\n"
    assert codes(body + "logits = Where (long, row, scores)") == {"AUD102"}


def test_one_layer_that_acts_behind_all_layers_is_found() -> None:
    body = "side = ReduceMax (found, one)\nside_flat = Squeeze (side, one)\nside_low = ReduceMax (side_flat, last)\n"
    assert "AUD103" in codes(body + "logits = Mul (scores, side_low)")


def test_a_value_of_the_same_depth_may_act() -> None:
    assert codes("low = ReduceMax (scores, last)\nlogits = Sub (scores, low)") == set()


def test_a_number_of_the_first_layer_times_a_vector_is_found() -> None:
    body = """
        low = ReduceMax (found)
        test = Greater (low, half)
        number = Cast <to = 1> (test)
        change = Mul (number, vector)
        words = Add (found, change)
    """
    assert "AUD104" in {one.code for one in audit(body, outputs="float[B, 3] scores").findings}


CELL = """
    <ir_version: 10, opset_import: ["" : 21]>
    net (float[N, 16] x, float[N, 8] state) => (float[N, 8] next) {{
        a = MatMul (x, wide)
        b = Relu (a)
        c = MatMul (b, w)
        d = Relu (c)
        e = MatMul (d, w)
        f = Relu (e)
        deep = MatMul (f, w)
        shallow = MatMul ({read})
        next = Add (deep, shallow)
    }}
"""


@pytest.mark.parametrize(("read", "found"), [("state, w", set()), ("x, wide", {"AUD103"})])
def test_a_state_that_is_given_back_may_meet_what_an_input_became(read: str, found: set[str]) -> None:
    sizes = {"w": 8, "wide": 16}
    weights = {name: np.random.default_rng(0).normal(size=(rows, 8)) for name, rows in sizes.items()}
    model = with_weights(CELL.format(read=read), weights)
    assert {one.code for one in check_graph(model, None).findings} == found
