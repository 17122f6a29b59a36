"""A unit that comes back is one draw: comparisons between arms count units, not requests."""

from __future__ import annotations

from collections import Counter

from atpatch_onnx.ab.tally import Book


def test_a_unit_is_new_once_and_a_request_without_one_is_a_unit_of_its_own() -> None:
    book = Book()
    assert [book.add(unit, hit, 1) for unit, hit in (("u", 1), ("u", 0), ("v", 0), ("u", 1), (None, 1), (None, 1))] == [
        True, False, True, False, True, True,
    ]  # fmt: skip
    assert len(book) == 4
    assert book.kinds() == Counter({(2, 3): 1, (0, 1): 1, (1, 1): 2})
