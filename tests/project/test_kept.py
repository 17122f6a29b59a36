"""What tests keep is made once, and anew where something that it is made from changes."""

from __future__ import annotations

import ast
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

from ..kept import EXPORTER_SOURCES, kept, recipe

of = recipe.__wrapped__
"""Reads the files each time."""


def test_a_recipe_changes_with_a_file_and_with_each_python_file_of_a_folder(tmp_path: Path) -> None:
    weights, code = tmp_path / "weights", tmp_path / "code"
    (code / "inner").mkdir(parents=True)
    sources = weights, code / "outer.py", code / "inner" / "deep.py"
    for source in sources:
        source.write_text("1")
    found = [of(weights, code)]
    for source in sources:
        source.write_text("2")
        found.append(of(weights, code))
    (code / "notes.txt").write_text("3")
    assert of(weights, code) == found[-1] and len({*found}) == 4


def test_a_recipe_changes_with_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(*EXPORTER_SOURCES)
    assert of(*EXPORTER_SOURCES) == before
    monkeypatch.setattr("tests.kept.version", lambda package: "999")
    assert of(*EXPORTER_SOURCES) != before


def test_a_folder_is_made_once_and_what_an_ended_run_left_of_it_is_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATPATCH_TEST_CACHE", str(tmp_path))

    calls: list[Path] = []

    def make(path: Path) -> None:
        calls.append(path)
        path.mkdir()
        (path / "half").write_text("")
        if len(calls) == 1:
            raise KeyboardInterrupt
        (path / "half").rename(path / "whole")

    with pytest.raises(KeyboardInterrupt):
        kept("recipe/model", make)
    for _ in range(2):
        assert [file.name for file in kept("recipe/model", make).iterdir()] == ["whole"]
    assert len(calls) == 2
    assert kept("other/model", make) != kept("recipe/model", make) and len(calls) == 3


def test_modules_that_write_an_export_are_sources_of_its_recipe() -> None:
    """The others that the exporter imports only say something: of an error, an option, a site, a result."""
    others = {"atpatch_onnx.errors", "atpatch_onnx.options", "rewriters.finding.finder", "rewriters.summary"}
    imported = {
        resolve_name("." * node.level + node.module, "atpatch_onnx.exporters") if node.level else node.module
        for file in EXPORTER_SOURCES[0].rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert others < imported
    for name in {one for one in imported if one.split(".")[0] in ("atpatch_onnx", "rewriters")} - others:
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        assert any(Path(spec.origin).is_relative_to(source) for source in EXPORTER_SOURCES), name
