"""The page of error codes: an example for every code of the catalog, and each example gives exactly its code."""

from __future__ import annotations

import inspect
import re
import sys

import pytest

from atpatch_onnx import errors
from atpatch_onnx.errors import CATALOG, AtpatchError
from atpatch_onnx.pages import environment

from ..documents import ROOT, Block, blocks, run_command

PAGE = ROOT / "docs" / "reference" / "error-codes.md"
ABSENT = {"ATP050": "onnxruntime", "ATP051": "jinja2"}
"""The module that an example does without, as its text says."""

_, *SECTIONS = re.split(r"^## (ATP\d+)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
EXAMPLES = dict(zip(SECTIONS[::2], SECTIONS[1::2], strict=True))


def test_the_declaration_that_contributors_are_shown_is_one():
    (shown,) = [block for block in blocks(ROOT / "docs/contributing/error-code.md") if block.language == "python"]
    names = {"declare": inspect.signature(errors.declare).bind, "DataError": errors.DataError}
    exec(shown.text, names)
    declared = names["MASK_UNREADABLE"].arguments
    assert declared["code"] not in CATALOG and issubclass(declared["kind"], AtpatchError)


def test_every_code_has_one_example():
    assert SECTIONS[::2] == sorted(CATALOG)


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_example_gives_the_code(code, demo_folder, atpatch, monkeypatch):
    if code in ABSENT:
        assert f"without {ABSENT[code]}" in EXAMPLES[code]
        monkeypatch.setitem(sys.modules, ABSENT[code], None)
        environment.cache_clear()  # another test may have loaded it
    found = list(blocks(PAGE, EXAMPLES[code]))
    steps = [step for block in found for step in (block.commands if block.language == "console" else [block])]
    for step in steps[:-1]:
        if isinstance(step, Block):
            execute(step)
        else:
            done = run_command(step, demo_folder, atpatch)
            assert done.code == 0, done.err
    if isinstance(steps[-1], Block):
        with pytest.raises(AtpatchError, match=code):
            execute(steps[-1])
    else:
        run = run_command(steps[-1], demo_folder, atpatch)
        assert run.err.startswith(f"error {code}: "), run.err
        assert run.code == CATALOG[code].exit_code


def execute(block: Block) -> None:
    exec(compile(block.text, str(block), "exec"), {})
