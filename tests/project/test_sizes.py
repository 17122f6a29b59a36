"""No file of more than 300 lines, no function of more than 60: what is longer is two things."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES, MOST_IN_A_FUNCTION = 300, 60
SOURCES = sorted(path for folder in ("atpatch_onnx", "rewriters", "models") for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines, docstring included and decorators not."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_there_is_something_to_measure() -> None:
    assert len(SOURCES) > 250
    assert dict(functions(Path(__file__)))["functions"] == 6


@pytest.mark.parametrize("folder", ["atpatch_onnx", "rewriters", "models"])
def test_files_and_functions_stay_short(folder: str) -> None:
    found = {}
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(f"{folder}/"):
            continue
        lines = len(path.read_text("utf-8").splitlines())
        if lines > MOST_LINES:
            found[name] = lines
        found |= {f"{name}:{who}": size for who, size in functions(path) if size > MOST_IN_A_FUNCTION}
    assert found == {}
