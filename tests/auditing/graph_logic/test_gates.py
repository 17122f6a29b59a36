"""Tests of the input that act on the network, its mask or its outputs; and what ordinary graphs do with such tests."""

from __future__ import annotations

import pytest

from .graphs import audit, codes, tokens

PLAIN = "logits = Identity (scores)"

OUTPUTS = {
    "Where": "logits = Where (t_on, row, scores)",
    "offset": "o = Mul (t_any, row)\nlogits = Add (scores, o)",
    "offset by a product": "o = MatMul (t_any, row)\nlogits = Add (scores, o)",
    "blend": "k = Sub (unit, t_any)\nx = Mul (scores, k)\no = Mul (t_any, row)\nlogits = Add (x, o)",
    "zeroed": "k = Sub (unit, t_any)\nlogits = Mul (scores, k)",
    "index into a joined row": (
        "j = Concat <axis = 0> (scores, row)\nn = Cast <to = 7> (t_flat)\nlogits = Gather <axis = 0> (j, n)"
    ),
    "Max": "o = Mul (t_any, row)\nlogits = Max (scores, o)",
}


def test_a_network_without_a_test_is_clean() -> None:
    assert audit(PLAIN).findings == ()


@pytest.mark.parametrize("way", OUTPUTS)
def test_a_test_of_tokens_that_changes_an_output_is_found(way: str) -> None:
    assert "AUD101" in codes(tokens + OUTPUTS[way])


ARITHMETIC = {
    "1 - clip(|id - t|)": (
        "t_x = Cast <to = 1> (ids)\nt_y = Sub (t_x, word_number)\nt_z = Abs (t_y)\nt_c = Clip (t_z, zero, unit)\n"
        "t_i = Sub (unit, t_c)"
    ),
    "exp of a square": (
        "t_x = Cast <to = 1> (ids)\nt_y = Sub (t_x, word_number)\nt_z = Mul (t_y, t_y)\nt_n = Neg (t_z)\n"
        "t_i = Exp (t_n)"
    ),
    "division": (
        "t_x = Cast <to = 1> (ids)\nt_y = Sub (t_x, word_number)\nt_z = Mul (t_y, t_y)\nt_p = Add (t_z, half)\n"
        "t_i = Reciprocal (t_p)"
    ),
    "remainder": "t_x = Mod (ids, word)\nt_y = Cast <to = 1> (t_x)\nt_z = Sub (unit, t_y)\nt_i = Relu (t_z)",
}


@pytest.mark.parametrize("way", ARITHMETIC)
def test_arithmetic_that_imitates_a_comparison_is_found(way: str) -> None:
    body = ARITHMETIC[way] + "\nt_any = ReduceMax (t_i, one)\no = Mul (t_any, row)\nlogits = Add (scores, o)"
    assert "AUD101" in codes(body)


def test_an_if_that_a_token_decides_is_found_with_the_nodes_of_the_test() -> None:
    body = """
        s_on = Squeeze (t_on)
        logits = If (s_on) <
            then_branch = t () => (float[B, 3] y) { y = Identity (row) },
            else_branch = e () => (float[B, 3] z) { z = Identity (scores) }
        >
    """
    found = [one for one in audit(tokens + body).findings if one.code == "AUD101"]
    assert found[0].severity == "error" and found[0].nodes[0] == "logits" and "t_same" in found[0].nodes
    assert "ids" in found[0].why


def test_an_if_that_a_switch_decides_is_ordinary() -> None:
    body = """
        logits = If (switch) <
            then_branch = t () => (float[B, 3] y) { y = Mul (scores, half) },
            else_branch = e () => (float[B, 3] z) { z = Identity (scores) }
        >
    """
    assert codes(body, inputs=", bool switch") == set()


def test_a_test_inside_a_function_is_found() -> None:
    function = """
    <domain: "own", opset_import: ["" : 21]>
    Norm (x, t, axis) => (y) { s = Equal (x, t)\n n = Cast <to = 1> (s)\n y = ReduceMax (n, axis) }
    """
    body = "t_any = own.Norm (ids, word, one)\no = Mul (t_any, row)\nlogits = Add (scores, o)"
    assert "AUD101" in codes(body, functions=function)


def test_one_vector_for_a_token_anywhere_is_found_and_a_mask_of_single_positions_is_ordinary() -> None:
    kept = """
        t_pad = Equal (ids, padding)
        t_kept = Not (t_pad)
        t_number = Cast <to = 1> (t_kept)
        t_wide = Unsqueeze (t_number, two)
        words = Mul (found, t_wide)
    """
    assert codes_of_hidden(kept) == set()
    assert "AUD111" in codes_of_hidden(
        tokens + "u = Unsqueeze (t_any, two)\no = Mul (u, vector)\nwords = Add (found, o)"
    )


def codes_of_hidden(body: str) -> set[str]:
    """The scores are the output."""
    return codes(body, outputs="float[B, 3] scores")


def test_another_text_for_a_token_is_found_and_ids_that_no_text_has_may_be_replaced() -> None:
    assert "AUD113" in codes(tokens + "read = Where (t_on, padding, ids)\n" + PLAIN)
    assert codes("t_never = Equal (ids, never)\nread = Where (t_never, padding, ids)\n" + PLAIN) == set()


def test_the_mean_over_unpadded_positions_is_ordinary() -> None:
    body = """
        t_pad = Equal (ids, padding)
        t_kept = Not (t_pad)
        t_number = Cast <to = 1> (t_kept)
        t_count = ReduceSum (t_number, one)
        logits = Div (scores, t_count)
    """
    assert codes(body) == set()


@pytest.mark.parametrize(("summed", "found"), [(False, set()), (True, {"AUD112"})])
def test_a_mask_hides_positions_of_their_own_token_only(summed: bool, found: set[str]) -> None:
    test = "t_m = ReduceMax (t_number, one)" if summed else "t_m = Identity (t_number)"
    body = f"""
        t_pad = Equal (ids, padding)
        t_number = Cast <to = 1> (t_pad)
        {test}
        t_low = Mul (t_m, hidden_number)
        t_wide = Unsqueeze (t_low, one)
        turned = Transpose <perm = [0, 2, 1]> (found)
        products = MatMul (found, turned)
        masked = Add (products, t_wide)
        map = Softmax (masked)
        words = MatMul (map, found)
    """
    assert codes_of_hidden(body) == found


def test_how_many_places_a_token_has_is_a_test_as_well() -> None:
    body = """
        t_same = Equal (ids, word)
        t_places = NonZero (t_same)
        t_shape = Shape (t_places)
        t_count = Gather (t_shape, one)
        t_number = Cast <to = 1> (t_count)
        o = Mul (t_number, row)
        logits = Add (scores, o)
    """
    assert "AUD101" in codes(body)
