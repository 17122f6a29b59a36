"""Where tests are: a folder of tests for each folder of the packages, and nothing shared through a file of tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))
OF_THEIR_OWN = {"docs", "fuzz", "models", "mutants", "project"}
"""Folders that are about no folder of a package."""


def mirrored(folder: Path) -> Path:
    """The folder of a package that a folder of tests is about."""
    inner = folder.relative_to(TESTS)
    return ROOT / inner if inner.parts[:1] == ("rewriters",) else ROOT / "atpatch_onnx" / inner


def imported(path: Path, text: str) -> Iterator[str]:
    """Modules that a file of tests imports, and what it takes from them, by full name."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], node.module] if node.level else [node.module]
            yield from (".".join(part for part in (*base, alias.name) if part) for alias in node.names)


def of_tests(names: Iterator[str]) -> list[str]:
    return [name for name in names if name.startswith("tests.") and ".test_" in name]


def test_every_folder_mirrors_a_folder_of_a_package() -> None:
    folders = {path.parent for path in FILES if path.parent != TESTS}
    assert [
        folder
        for folder in folders
        if folder.relative_to(TESTS).parts[0] not in OF_THEIR_OWN and not (mirrored(folder) / "__init__.py").exists()
    ] == []


def test_every_file_of_tests_is_in_a_package() -> None:
    assert [path for path in FILES if not (path.parent / "__init__.py").exists()] == []


def test_no_file_imports_a_file_of_tests() -> None:
    assert [(path, found) for path in FILES if (found := of_tests(imported(path, path.read_text("utf-8"))))] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from .test_finder import sites", ["tests.rewriters.test_finder.sites"]),
        ("from ..test_options import sites", ["tests.test_options.sites"]),
        ("from . import graphs, test_finder", ["tests.rewriters.test_finder"]),
        ("import tests.rewriters.finding.test_finder as other", ["tests.rewriters.finding.test_finder"]),
        ("from onnx.backend.test.case.test_case import TestCase", []),
    ],
)
def test_such_an_import_is_seen(line: str, found: list[str]) -> None:
    assert of_tests(imported(TESTS / "rewriters" / "some.py", line)) == found
