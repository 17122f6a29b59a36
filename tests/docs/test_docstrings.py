"""Docstrings keep the form that the page of the API is made from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ..documents import ROOT

SECTIONS = ("Args:", "Attributes:", "Raises:")
ITEM = re.compile(r"\S[^:]*:( |$)")


def docstrings() -> Iterator[tuple[str, str]]:
    for package in ("rewriters", "atpatch_onnx"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    line = node.body[0].lineno if node.body else 1
                    yield f"{path.relative_to(ROOT)}:{line}", ast.get_docstring(node) or ""


def flattened(text: str) -> Iterator[str]:
    """Lines that stand where an entry of a section begins and are none."""
    within = False
    for line in text.splitlines():
        if line in SECTIONS:
            within = True
        elif line and not line.startswith(" "):
            within = False
        elif within and line.startswith("    ") and line[4] != " " and not ITEM.match(line[4:]):
            yield line


def test_sections_have_one_entry_a_line_and_what_goes_on_is_indented():
    assert [f"{where}: {line}" for where, text in docstrings() for line in flattened(text)] == []


def test_what_a_reflow_makes_of_a_section_is_found():
    good = "Do it.\n\nArgs:\n    x: what it is,\n        and more.\n    y, z: the rest.\n\nDone."
    assert not list(flattened(good))
    assert list(flattened(good.replace("        and", "    and"))) == ["    and more."]
