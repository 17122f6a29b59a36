"""Marks of a test.

1. `export`, `train`, `serve`: by what it calls, itself or through fixtures and helpers of the tests.
2. `cases`: of a test with many cases, all but a few that are spread evenly over them.
3. `fast`: none of these, and not marked `slow`.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FunctionType, ModuleType

import pytest

__all__ = ["CALLS", "FAST_CASES", "add_marks", "marks_of", "spread"]

CALLS = {
    "export": {"export", "export_model", "try_export"},
    "train": {"fit", "fit_on_traffic", "toy", "train", "train_profile", "train_cnn", "--invert"},
    "serve": {"server"},
}
"""Mark → names of functions, of torch, of the packages or of the tests, and of commands and options."""

FAST_CASES = 5
"""Most cases of one test that are fast. The others mostly find the same mistakes."""


def marks_of(functions: Iterable[object]) -> set[str]:
    """Marks that follow from what a test and its fixtures call."""
    called = frozenset().union(*(_called(function) for function in functions))
    return {mark for mark, names in CALLS.items() if names & called}


def add_marks(items: Sequence[pytest.Function]) -> None:
    """Marks collected tests."""
    fast: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        fixtures = [one.func for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
        marks = marks_of([item.function, *fixtures])
        for mark in marks:
            item.add_marker(mark)
        if not marks and item.get_closest_marker("slow") is None:
            fast[item.nodeid.partition("[")[0]].append(item)
    for cases in fast.values():
        kept = spread(sorted(item.nodeid for item in cases))
        for item in cases:
            item.add_marker("fast" if item.nodeid in kept else "cases")


def spread(names: Sequence[str]) -> set[str]:
    """At most `FAST_CASES` of the names, at even distances."""
    count = min(len(names), FAST_CASES)
    return {names[place * len(names) // count] for place in range(count)}


@functools.cache
def _called(function: object) -> frozenset[str]:
    called: set[str] = set()
    _follow(function, called, set())
    return frozenset(called)


def _follow(function: object, called: set[str], seen: set[FunctionType]) -> None:
    """Adds the names that a function of the tests uses, and those that the functions of the tests use that it names."""
    function = getattr(function, "__wrapped__", function)  # of a context manager or a cache
    if not isinstance(function, FunctionType) or not function.__module__.startswith("tests.") or function in seen:
        return
    seen.add(function)
    names = set(_names(function.__code__))
    called |= names
    known = [function.__globals__.get(name) for name in names]
    modules = [value for value in known if isinstance(value, ModuleType) and value.__name__.startswith("tests.")]
    known += [getattr(module, name, None) for module in modules for name in names]
    for value in known:
        if isinstance(value, type):
            for method in vars(value).values():
                _follow(method, called, seen)
        elif callable(value):
            _follow(value, called, seen)


def _names(code: CodeType) -> Iterator[str]:
    """Names in a function and in those inside it; texts too where it runs the command line."""
    yield from code.co_names
    commands = "atpatch" in (*code.co_varnames, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
        elif commands and isinstance(constant, str):
            yield constant
