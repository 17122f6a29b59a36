"""Marks of a test, by what it calls itself or through fixtures and helpers of the tests: an export, a training, a
server. A test that does none of these, and is not marked `slow`, is `fast`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType

import pytest

__all__ = ["CALLS", "add_marks", "marks_of"]

CALLS = {
    "export": {"export", "export_model"},
    "train": {"fit", "toy", "train"},
    "serve": {"server"},
}
"""Mark → names of functions, of torch, of the packages or of the tests, and of commands."""


def marks_of(functions: Iterable[object]) -> set[str]:
    """Marks that follow from what a test and its fixtures call."""
    called: set[str] = set()
    seen: set[FunctionType] = set()
    for function in functions:
        _follow(function, called, seen)
    return {mark for mark, names in CALLS.items() if names & called}


def add_marks(item: pytest.Function) -> None:
    """Marks a collected test."""
    fixtures = [one.func for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
    marks = marks_of([item.function, *fixtures])
    if not marks and item.get_closest_marker("slow") is None:
        marks = {"fast"}
    for mark in marks:
        item.add_marker(mark)


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
