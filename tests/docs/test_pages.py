"""The pages of the reference: complete, and every command and every piece of Python in them runs."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from types import SimpleNamespace

import click
import pytest

import atpatch_onnx
from atpatch_onnx.cli import cli
from docs import generated_pages as pages

from ..documents import ROOT, blocks, run_command
from ..schemas import SCHEMAS, problems

REFERENCE = ROOT / "docs" / "reference"
TEXT = {path.name: path.read_text("utf-8") for path in REFERENCE.glob("*.md")}
COMMANDS = list(pages.command_tree(cli, click.Context(cli, info_name="atpatch-onnx")))
NAMES = [context.command_path.removeprefix("atpatch-onnx ") for _, context in COMMANDS]

# The page of error codes has a test of its own for all but its head.
RUN = {
    f"{name}:{block.line}": block
    for name, text in TEXT.items()
    for block in blocks(REFERENCE / name, text.split("\n## ATP")[0])
    if block.language in ("console", "python")
}


@pytest.mark.parametrize("block", RUN.values(), ids=RUN)
def test_what_the_page_shows_runs(block, demo_folder, atpatch):
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), {})
        return
    for command in block.commands:
        done = run_command(command, demo_folder, atpatch)
        assert done.code == 0, done.err


def test_no_page_elsewhere_has_commands_that_no_test_runs():
    """`tests/test_documents.py` and `tests/project/` have the other folders."""
    folders = {"reference", "tutorials", "guide", "deploy"}
    pages = [page for page in (ROOT / "docs").rglob("*.md") if not folders & set(page.relative_to(ROOT / "docs").parts)]
    with_commands = [page.name for page in pages if any(block.language == "console" for block in blocks(page))]
    assert with_commands in ([], ["index.md"])


@pytest.mark.parametrize(("command", "context"), COMMANDS, ids=NAMES)
def test_every_option_is_on_the_page_of_commands(command, context):
    page = pages.on_page_markdown(TEXT["command-line.md"])
    name = context.command_path.removeprefix("atpatch-onnx ")
    section = re.split(r"^## ", page, flags=re.MULTILINE)[1 + NAMES.index(name)]
    assert section.startswith(f"{name}\n")
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert f"`{option.opts[0]}" in section or f", {option.opts[0]}" in section


@pytest.mark.parametrize(("command", "context"), COMMANDS, ids=NAMES)
def test_the_examples_of_a_command_are_well_formed(command, context):
    _, examples = pages.help_and_examples(command)
    assert examples
    for line in examples:
        words = shlex.split(line.split(" | ")[0], comments=True)
        path = context.command_path.split()
        assert words[: len(path)] == path
        command.make_context(path[-1], words[len(path) :], parent=context.parent)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda page: page.stem)
def test_figures_of_a_decision_are_in_the_results_that_it_names(page):
    text = page.read_text("utf-8")
    sources = " ".join((ROOT / path).read_text("utf-8") for path in re.findall(r"`(models/[\w/]+\.md)`", text))
    measured = {round(float(number), 2) for number in re.findall(r"\d+\.\d{2,3}", sources)}
    shown = {float(number) for number in re.findall(r"(?<![\d.])\d+\.\d\d(?![\d.])", text)}
    assert shown <= measured


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    table = (ROOT / "docs/decisions/dependencies.md").read_text("utf-8").lower()
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(one for name, all_ in extras.items() if name != "dev" for one in all_)]
    names = {re.split(r"[^\w-]", one)[0].lower() for one in needed} - {"atpatch-onnx"}
    rows = {word for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE) for word in re.findall(r"[\w-]+", row)}
    assert names - rows == set()


NAMED = re.compile(r"`((?:rewriters|atpatch_onnx|tests|docs|models)/[\w./-]+)`")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    named = [path for path in NAMED.findall(page.read_text("utf-8")) if not re.search(r"NAME|KIND", path)]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_command_that_prints_json_has_a_schema_on_the_page():
    printing = {
        name.split()[0] if name != "ab analyze" else name
        for name, (command, _) in zip(NAMES, COMMANDS, strict=True)
        if any("--json" in option.opts for option in command.params)
    }
    shown = re.findall(r"^## (.+)\n\n<!-- schema: (.+) -->$", TEXT["json-outputs.md"], flags=re.MULTILINE)
    assert {name for name, _ in shown} == printing
    assert all(schema == name.replace(" ", "-") for name, schema in shown)


def test_every_schema_is_on_a_page():
    shown = [name for text in TEXT.values() for name in re.findall(r"<!-- schema: ([\w-]+) -->", text)]
    assert sorted(shown) == sorted(path.stem for path in SCHEMAS.glob("*.json"))


@pytest.mark.parametrize("name", [path.stem for path in SCHEMAS.glob("*.json")])
def test_every_field_of_a_schema_says_what_it_means(name):
    table = pages.schema_table(name)
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    assert all(f"| `{field}" in table for field in schema["properties"])


def test_every_public_name_is_on_the_page_of_the_api():
    shown = [name for found in re.findall(r"<!-- api: ([\w ]+) -->", TEXT["python-api.md"]) for name in found.split()]
    assert sorted(shown) == sorted(atpatch_onnx.__all__)


def test_the_column_description_on_the_page_is_one():
    (example,) = [block for block in blocks(REFERENCE / "formats.md") if block.language == "toml"]
    assert not problems("column-description", tomllib.loads(example.text))


def test_a_page_that_loads_from_elsewhere_is_refused():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    here = '<script src="assets/a.js"></script><a href="https://arxiv.org">a</a>'
    assert pages.on_post_page(here, page=page) == here
    for elsewhere in (
        '<script src="https://x/a.js">',
        '<link rel="stylesheet" href="https://x/a.css">',
        "<img src=http://x>",
    ):
        with pytest.raises(ValueError, match="loads from elsewhere"):
            pages.on_post_page(here + elsewhere, page=page)
