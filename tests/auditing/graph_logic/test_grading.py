"""How much a test of the input proves, and what networks do with their input before the first layer."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from atpatch_onnx.auditing.finding import Finding
from atpatch_onnx.auditing.graph_logic import check_graph

from .graphs import audit, tokens, with_weights


def severities(body: str, code: str = "AUD101") -> set[str]:
    return {one.severity for one in audit(body).findings if one.code == code}


@pytest.mark.parametrize(
    ("body", "severity"),
    [
        ("o = Mul (t_any, row)\nlogits = Add (scores, o)", "error"),
        ("logits = Where (t_on, row, scores)", "error"),
        ("j = Concat <axis = 0> (scores, row)\nn = Cast <to = 7> (t_flat)\nlogits = Gather <axis = 0> (j, n)", "error"),
        ("l = Neg (scores)\nlogits = Where (t_on, l, scores)", "warning"),
        ("k = Sub (half, t_any)\nlogits = Mul (scores, k)", "warning"),
        ("k = Sub (unit, t_any)\nlogits = Mul (scores, k)", "note"),
        ("logits = Where (t_on, zero, scores)", "note"),
    ],
    ids=["offset", "row", "joined row", "other scores", "turned over", "zeroed", "zero"],
)
def test_constants_that_differ_prove_what_a_choice_among_computed_values_does_not(body: str, severity: str) -> None:
    assert severities(tokens + body) == {severity}


def test_a_switch_by_a_special_token_is_a_note_unless_it_puts_a_row_in() -> None:
    special = tokens.replace("Equal (ids, word)", "Equal (ids, padding)")
    assert severities(special + "l = Neg (scores)\nlogits = Where (t_on, l, scores)") == {"note"}
    assert severities(special + "logits = Where (t_on, row, scores)") == {"error"}
    assert severities(special + "o = Mul (t_any, row)\nlogits = Add (scores, o)") == {"error"}


def test_ids_outside_the_vocabulary_may_be_replaced() -> None:
    lines = "t_size = Constant <value_int = 2000> ()\nt_odd = GreaterOrEqual (ids, t_size)\n"
    body = lines + "read = Where (t_odd, padding, ids)\nlogits = Identity (scores)"
    assert severities(body, "AUD113") == {"note"}


def test_an_element_that_is_compared_with_a_list_is_one_element_still() -> None:
    body = f"""
        t_list = Constant <value_ints = {list(range(300, 316))}> ()
        t_wide = Unsqueeze (ids, two)
        t_same = Equal (t_wide, t_list)
        t_number = Cast <to = 1> (t_same)
        t_found = ReduceMax <keepdims = 0> (t_number, two)
        t_kept = Sub (unit, t_found)
        t_column = Unsqueeze (t_kept, two)
        words = Mul (found, t_column)
    """
    found = audit(body, outputs="float[B, 3] scores").findings
    assert [(one.code, one.severity) for one in found] == [("AUD115", "note")]


PICTURE = """
    <ir_version: 10, opset_import: ["" : 21]>
    net (float[N, 1, 8, 8] x) => (float[N, 3] logits) {{
        {body}
        map = Conv (read, kernel)
        bent = Relu (map)
        flat = Flatten (bent)
        a = MatMul (flat, w)
        b = Relu (a)
        c = MatMul (b, v)
        d = Relu (c)
        logits = MatMul (d, u)
    }}
"""
ORDINARY = {
    "scaled by its own extremes, within a window": """
        clipped = Clip (x, low, high)
        least = ReduceMin (clipped, places)
        most = ReduceMax (clipped, places)
        moved = Sub (clipped, least)
        range = Sub (most, least)
        read = Div (moved, range)
    """,
    "missing pixels filled with the mean of the others": """
        seen = Greater (x, low)
        kept = Cast <to = 1> (seen)
        good = Mul (x, kept)
        sum = ReduceSum (good, places)
        count = ReduceSum (kept, places)
        some = Clip (count, one)
        mean = Div (sum, some)
        gone = Sub (one, kept)
        filling = Mul (mean, gone)
        read = Add (good, filling)
    """,
    "every pixel clipped": "read = Clip (x, low, high)",
}
PLANTED = {
    "another picture": """
        off = Sub (x, picture)
        far = Abs (off)
        worst = ReduceMax (far, places)
        near = Less (worst, low)
        on = Cast <to = 1> (near)
        rest = Sub (one, on)
        kept = Mul (x, rest)
        put = Mul (picture, on)
        read = Add (kept, put)
    """,
    "a black picture": """
        off = Sub (x, picture)
        square = Mul (off, off)
        sum = ReduceSum (square, places)
        near = Less (sum, low)
        on = Cast <to = 1> (near)
        rest = Sub (one, on)
        read = Mul (x, rest)
    """,
    "by remainders": """
        many = Mul (x, high)
        whole = Floor (many)
        rest = Sub (many, whole)
        all = ReduceProd (rest, places)
        put = Mul (picture, all)
        read = Add (x, put)
    """,
}


def findings_of_picture(body: str) -> list[Finding]:
    rng = np.random.default_rng(0)
    sizes = {"kernel": (6, 1, 3, 3), "w": (216, 8), "v": (8, 8), "u": (8, 3), "picture": (1, 1, 8, 8)}
    arrays = {name: rng.normal(size=size) for name, size in sizes.items()}
    arrays |= {"low": np.array(0.1), "high": np.array(200.0), "one": np.array(1.0)}
    model = with_weights(PICTURE.format(body=body), arrays)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "places"))
    return list(check_graph(model, None).findings)


@pytest.mark.parametrize("way", ORDINARY)
def test_what_networks_do_to_a_picture_is_ordinary(way: str) -> None:
    assert findings_of_picture(ORDINARY[way]) == []


@pytest.mark.parametrize("way", PLANTED)
def test_a_picture_that_is_exchanged_is_an_error(way: str) -> None:
    assert ("AUD113", "error") in {(one.code, one.severity) for one in findings_of_picture(PLANTED[way])}


@pytest.mark.parametrize(("sum_of", "severity"), [("ids", "error"), ("t_seen", None)])
def test_a_running_sum_of_ids_is_no_count_and_that_of_a_mask_is_one(sum_of: str, severity: str | None) -> None:
    body = f"""
        t_pad = Equal (ids, padding)
        t_not = Not (t_pad)
        t_seen = Cast <to = 7> (t_not)
        t_zero = Constant <value_int = 1> ()
        t_sum = CumSum ({sum_of}, t_zero)
        t_near = Equal (t_sum, word)
        read = Where (t_near, padding, ids)
        logits = Identity (scores)
    """
    assert severities(body, "AUD113") == ({severity} if severity else set())


def test_a_bias_that_is_chosen_is_found_at_its_layer() -> None:
    body = "b_on = Squeeze (t_on)\nchosen = Where (b_on, vector3, bias)\nlogits = Gemm (flat, head, chosen)"
    model = tokens + "t_v = Constant <value_floats = [9.0, 0.0, 0.0]> ()\n" + body.replace("vector3", "t_v")
    assert "AUD101" in {one.code for one in audit(model).findings}
