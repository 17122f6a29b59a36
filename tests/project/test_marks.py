"""Marks follow from what a test calls, itself or through fixtures and helpers of the tests."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator

import pytest

from .. import exports
from ..exports import export_model
from ..marks import FAST_CASES, marks_of, spread
from ..tiny import attention_model


def plain() -> None:
    attention_model(layers=1)


def direct() -> None:
    export_model("bert", "dynamo")


def of_a_module() -> None:
    exports.export_model("bert", "dynamo")


def inside() -> None:
    def later() -> None:
        export_model("bert", "dynamo")

    later()


@functools.cache
def cached() -> None:
    direct()


@contextlib.contextmanager
def managed() -> Iterator[None]:
    direct()
    yield


class Case:
    """Exports when it is made."""

    def __init__(self) -> None:
        direct()


def through_a_cache() -> None:
    cached()


def through_a_context() -> None:
    with managed():
        pass


def through_a_class() -> None:
    Case()


def both(toy: Callable[[], None]) -> None:
    direct()
    exports.toy()  # type: ignore[attr-defined]


def command(atpatch: Callable[..., None]) -> None:
    atpatch("fit", "model.onnx")


def search(atpatch: Callable[..., None]) -> None:
    atpatch("debugset", "model.onnx", "--invert", "all")


def text() -> str:
    return "fit"


@pytest.mark.parametrize(
    ("function", "marks"),
    [
        (plain, set()),
        (text, set()),
        (direct, {"export"}),
        (of_a_module, {"export"}),
        (inside, {"export"}),
        (through_a_cache, {"export"}),
        (through_a_context, {"export"}),
        (through_a_class, {"export"}),
        (both, {"export", "train"}),
        (command, {"train"}),
        (search, {"train"}),
    ],
)
def test_a_test_has_the_marks_of_what_it_calls(function: Callable[..., None], marks: set[str]) -> None:
    assert marks_of([function]) == marks


def test_a_test_has_the_marks_of_its_fixtures() -> None:
    assert marks_of([plain, direct]) == {"export"}


def test_a_test_that_does_nothing_of_the_kind_is_fast(request: pytest.FixtureRequest) -> None:
    assert {mark.name for mark in request.node.iter_markers()} == {"fast"}


@pytest.mark.parametrize("count", [1, FAST_CASES - 1, FAST_CASES, FAST_CASES + 1, 3 * FAST_CASES + 1])
def test_few_cases_of_many_are_fast_and_they_are_spread_evenly(count: int) -> None:
    names = [f"{number:03}" for number in range(count)]
    chosen = sorted(map(int, spread(names)))
    assert len(chosen) == min(count, FAST_CASES) and chosen[0] == 0
    assert {later - earlier for earlier, later in itertools.pairwise(chosen)} <= {
        max(count // FAST_CASES, 1),
        -(-count // FAST_CASES),
    }
