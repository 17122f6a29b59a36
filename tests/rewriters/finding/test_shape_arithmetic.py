"""Shapes that a graph computes: numbers where they are known, names where equal names mean equal sizes."""

from __future__ import annotations

from typing import Any

import pytest

from ..patterns import ints
from .graph_text import read

KNOWN = {
    "shape": ("out = Shape(x)", ("B", "S", 6)),
    "shape-from": ("out = Shape<start = 1>(x)", ("S", 6)),
    "shape-to": ("out = Shape<end = 2>(x)", ("B", "S")),
    "shape-between": ("out = Shape<start = -2, end = -1>(x)", ("S",)),
    "cast": ("s = Shape(x) out = Cast<to = 7>(s)", ("B", "S", 6)),
    "identity": ("s = Shape(x) out = Identity(s)", ("B", "S", 6)),
    "unsqueezed-number": ("d = Gather(s, two) e = Squeeze(d) out = Unsqueeze(e, zero)", (6,)),
    "reshaped-vector": ("out = Reshape(s, minus)", ("B", "S", 6)),
    "reshaped-matrix": ("out = Reshape(four, square)", None),
    "unsqueezed-vector": ("out = Unsqueeze(four, zero)", None),
    "concat": ("out = Concat<axis = 0>(s, two, minus)", ("B", "S", 6, 2, -1)),
    "concat-with-unknown": ("out = Concat<axis = 0>(s, n)", None),
    "gather": ("out = Gather(s, last)", (6, "B")),
    "gather-first-and-past-front": ("out = Gather(s, front)", ("B",)),
    "gather-past-the-end": ("out = Gather(s, three)", None),
    "gather-past-the-front": ("out = Gather(s, before)", None),
    "gather-by-unknown": ("out = Gather(s, n)", None),
    "slice": ("out = Slice(s, one, three)", ("S", 6)),
    "slice-by-steps": ("out = Slice(s, zero, three, zero, two)", ("B", 6)),
    "slice-by-steps-of-zero": ("out = Slice(s, zero, three, zero, zero)", None),
    "slice-by-unknown-steps": ("out = Slice(s, zero, three, zero, n)", None),
    "slice-from-unknown": ("out = Slice(s, n, three)", None),
    "slice-to-unknown": ("out = Slice(s, zero, n)", None),
    "slice-along-two-axes": ("out = Slice(s, last, last)", None),
    "slice-to-two-ends": ("out = Slice(s, one, last)", None),
    "slice-by-two-steps": ("out = Slice(s, one, three, zero, last)", None),
    "slice-of-unknown": ("out = Slice(n, zero, one)", None),
    "other-operator": ("out = Clip(four, one, three)", None),
    "shape-of-unknown": ("y = Unknown(x) out = Shape(y)", None),
    "add": ("out = Add(two, three)", (5,)),
    "subtract": ("out = Sub(two, three)", (-1,)),
    "multiply": ("out = Mul(two, three)", (6,)),
    "divide": ("out = Div(seven, two)", (3,)),
    "divide-towards-zero": ("out = Div(minus_seven, two)", (-3,)),
    "divide-two-negatives": ("out = Div(minus_seven, minus_two)", (3,)),
    "divide-by-negative": ("out = Div(seven, minus_two)", (-3,)),
    "divide-zero": ("out = Div(zero, two)", (0,)),
    "divide-by-zero": ("out = Div(seven, zero)", (0,)),
    "number-for-each": ("out = Mul(four, two)", (4, 6, 8, 10)),
    "each-for-a-number": ("out = Sub(two, four)", (0, -1, -2, -3)),
    "of-unlike-lengths": ("out = Add(four, last)", None),
    "of-equal-lengths": ("out = Add(last, last)", (4, 0)),
    "of-unknown": ("out = Add(four, n)", None),
    "unknown-and": ("out = Add(n, four)", None),
    "of-nothing": ("out = Add(none, four)", None),
    "of-nothing-and-one": ("out = Add(none, two)", None),
    "of-one-and-nothing": ("out = Add(two, none)", None),
    "and-nothing": ("out = Add(four, none)", None),
    "name-plus-zero": ("out = Add(b, zero)", ("B",)),
    "zero-plus-name": ("out = Add(zero, b)", ("B",)),
    "name-minus-zero": ("out = Sub(b, zero)", ("B",)),
    "name-minus-itself": ("out = Sub(b, b)", (0,)),
    "name-times-one": ("out = Mul(b, one)", ("B",)),
    "one-times-name": ("out = Mul(one, b)", ("B",)),
    "name-over-one": ("out = Div(b, one)", ("B",)),
}
"""Body → elements of `out`; s = (B, S, 6), b = (B), four = (2, 3, 4, 5), last = (2, 0), n unknown, none empty."""

MADE_UP = {
    "zero-minus-name": "out = Sub(zero, b)",
    "one-over-name": "out = Div(one, b)",
    "name-plus-one": "out = Add(b, one)",
    "one-plus-name": "out = Add(one, b)",
    "name-minus-one": "out = Sub(b, one)",
    "name-times-zero": "out = Mul(b, zero)",
    "name-over-zero": "out = Div(b, zero)",
    "name-over-itself": "out = Div(b, b)",
    "name-plus-itself": "out = Add(b, b)",
    "beyond-int64": "out = Mul(half, half)",
    "at-the-end-of-int64": "out = Mul(half, two)",
}
CONSTANTS: dict[str, Any] = {
    "zero": ints(0), "one": ints(1), "two": ints(2), "three": ints(3), "seven": ints(7), "minus": ints(-1),
    "minus_two": ints(-2), "minus_seven": ints(-7), "four": ints(2, 3, 4, 5), "last": ints(2, 0), "front": ints(-3),
    "before": ints(-4), "none": ints(), "square": ints(2, 2), "half": ints(2**62),
}  # fmt: skip


def elements_of(body: str) -> Any:
    given = "" if body.startswith("s = ") else "s = Shape(x)"
    return read(f"{given} b = Shape<end = 1>(x) {body}", "float[B,S,6] x, int64[N] n", **CONSTANTS).elements("out")


@pytest.mark.parametrize(("body", "elements"), KNOWN.values(), ids=KNOWN)
def test_elements_of_small_integer_tensors(body: str, elements: tuple[int | str, ...] | None) -> None:
    assert elements_of(body) == elements


@pytest.mark.parametrize("body", MADE_UP.values(), ids=MADE_UP)
def test_a_size_that_nobody_knows_gets_a_name_of_its_own(body: str) -> None:
    (name,) = elements_of(body)
    assert isinstance(name, str) and name.startswith("?")


def test_numbers_up_to_the_end_of_int64_are_kept() -> None:
    assert elements_of("m = Sub(half, one) out = Add(m, half)") == (2**63 - 1,)


@pytest.mark.parametrize(("length", "followed"), [(1024, True), (1025, False)], ids=str)
def test_long_tensors_are_not_followed(length: int, followed: bool) -> None:
    """A chain of Concat can double its length at every step."""
    found = read("out = Concat<axis = 0>(a, b)", "float[1] x", a=ints(*range(length - 1)), b=ints(5)).elements("out")
    assert (found is not None) is followed


def test_slices_of_old_opsets_hold_their_bounds_in_attributes() -> None:
    body = "s = Shape(x) out = Slice<axes = [0], starts = [1], ends = [3]>(s)"
    assert read(body, "float[B,S,6] x", opset=9).elements("out") == ("S", 6)


def test_a_missing_first_input_has_no_elements() -> None:
    assert read('out = Concat<axis = 0>(s, "")', "int64[N] x", s=ints(1)).elements("out") is None
    assert read('out = Slice("", s, s)', "int64[N] x", s=ints(1)).elements("out") is None
    assert read('out = Add("", s)', "int64[N] x", s=ints(1)).elements("out") is None
    assert read('out = Add(s, "")', "int64[N] x", s=ints(1)).elements("out") is None
    assert read('out = Cast<to = 7>("")', "int64[N] x").elements("out") is None
