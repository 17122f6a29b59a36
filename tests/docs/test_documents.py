"""Every command of README, tutorials and guide runs, in the order of its page, and prints what the page says.

The `python` blocks of a page share their names; one with a title is a file that the reader saves. Notes above a block:

* `<!-- not run: REASON -->`: its commands are only parsed, by the command line's own parser.
* `<!-- shortened: `THIS` to `THAT`: REASON -->`: runs with THAT in place of THIS, and its output is not compared.
* `<!-- exit status: 1 -->`: of the block's last command.
* `<!-- figures may differ: REASON -->`: numbers in the output may be others.
* `<!-- server: REASON -->`: the command runs until a block with `<!-- stops the server -->`, or the end of the page.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from atpatch_onnx.cli import cli
from models.digits_vit.picture import OUTPUT, draw, example

from ..conftest import Run
from ..documents import ROOT, Block, blocks, run_command

README = ROOT / "README.md"
INDEX = ROOT / "docs" / "index.md"
PAGES = [
    README,
    INDEX,
    *(path for room in ("tutorials", "guide") for path in sorted((ROOT / "docs" / room).glob("*.md"))),
]
ALL = sorted({*PAGES, *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "models" / "README.md"})
"""What is not among the pages has tests of its own (the reference), or tells a developer what to run."""
ROOMS = {"atpatch_onnx", "rewriters", "models", "tests", "docs"}
NOTES = {"not run", "shortened", "exit status", "figures may differ", "server", "stops the server"}
QUICK = {"compare": ["--seconds", "0"], "bench": ["--pairs", "10", "--seconds", "0.1", "--rounds", "0"]}
"""Timing takes seconds, and says nothing about whether a command works."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
every_page = pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))


@dataclass
class Reader:
    """Somebody who follows a page in an empty folder.

    Attributes:
        folder: the current one.
        tools: a folder on the path, with `atpatch-onnx` and `python` of this interpreter.
        port: a free one, in place of 8000.
        atpatch: runs a command of the tool in this process; None: every command is run by the console script.
    """

    folder: Path
    tools: Path
    port: int
    atpatch: Callable[..., Run] | None
    names: dict[str, object] = field(default_factory=dict)
    server: subprocess.Popen[bytes] | None = None

    def follow(self, block: Block) -> None:
        if "not run" in block.notes:
            return
        if "stops the server" in block.notes:
            self.stop()
        if block.language == "python":
            self._read_python(block)
        elif block.language == "console":
            for number, (command, printed) in enumerate(block.steps, start=1 - len(block.steps)):
                self._do(block, command.replace("8000", str(self.port)), printed, last=number == 0)

    def stop(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server = None

    def _read_python(self, block: Block) -> None:
        if title := re.search(r'title="(.+)"', block.options):
            (self.folder / title[1]).write_text(block.text, "utf-8")
        else:
            exec(compile(block.text.replace("8000", str(self.port)), str(block), "exec"), self.names)

    def _do(self, block: Block, command: str, printed: list[str], last: bool) -> None:
        if "server" in block.notes:
            self._start(command)
            return
        if shortened := re.match("`(.+?)` to `(.+?)`", block.notes.get("shortened", "")):
            assert shortened[1] in command, block
            command = command.replace(shortened[1], shortened[2])
        # The README's commands draw their pages, and have to do for all.
        done = self._run(quick(command if self.atpatch is None else re.sub(r" --report \S+", "", command)))
        assert done.code == (int(block.notes.get("exit status", 0)) if last else 0), f"{block}: {command}\n{done.err}"
        if not shortened:
            masked = "figures may differ" in block.notes
            lines = [plain(line, masked) for line in (done.out + done.err).splitlines()]
            for line in printed:
                assert plain(line, masked) in lines, f"{block}: {line!r} is not in the output:\n{done.out}{done.err}"

    def _run(self, command: str) -> Run:
        if self.atpatch is not None:
            return run_command(command, self.folder, self.atpatch)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300, check=False)
        return Run(done.returncode, done.stdout, done.stderr)

    def _start(self, command: str) -> None:
        self.server = subprocess.Popen(["bash", "-c", f"exec {command}"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError(f"no server: {command}")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atpatch: Callable[..., Run]) -> Iterator[Reader]:
    folder, tools = tmp_path / "empty", tmp_path / "bin"
    folder.mkdir()
    tools.mkdir()
    for name, call in {"atpatch-onnx": "-c 'from atpatch_onnx.cli import main; main()'", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (tools / name).chmod(0o755)
    settings = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "160", "NO_COLOR": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.chdir(folder):
        made = Reader(folder, tools, port, atpatch)
        yield made
        made.stop()


def arguments_of(command: str) -> list[str] | None:
    """What follows `atpatch-onnx`; None for a command that is not of this tool."""
    words = shlex.split(command, comments=True)
    return words[1:] if words[:1] == ["atpatch-onnx"] else None


def quick(command: str) -> str:
    """The command without its comment, and without long measurements."""
    command = command.split("  #")[0].rstrip()
    arguments = arguments_of(command)
    more = QUICK.get(arguments[0], []) if arguments and "--load" not in arguments else []
    return f"{command} {shlex.join(more)}".rstrip()


def plain(line: str, masked: bool) -> str:
    """Words one blank apart; numbers as # where figures may differ."""
    line = " ".join(line.split())
    return re.sub(r"\d+", "#", line) if masked else line


def parse(arguments: list[str]) -> None:
    """What click does before a command runs.

    Raises:
        click.UsageError: where it would refuse.
    """
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, *arguments = arguments
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"there is no command {name}")
        command = found
    command.make_context(command.name, list(arguments))


@pytest.mark.slow
@each_page
def test_a_page_runs_from_top_to_bottom_in_an_empty_folder(page: Path, reader: Reader) -> None:
    if page == README:
        reader.atpatch = None
    for block in blocks(page):
        reader.follow(block)


@every_page
def test_every_command_of_a_page_is_one_that_can_be_given(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for command in (command for block in blocks(page) if block.language == "console" for command in block.commands):
        tool, *words = shlex.split(command, comments=True)
        if tool == "atpatch-onnx" and "--help" not in words and "|" not in words:
            parse(words)
        if tool == "make":
            assert {word for word in words if "=" not in word} <= {*targets}, command
        if words[:1] == ["-m"] and words[1].split(".")[0] in ROOMS:
            assert find_spec(words[1]), command
        named = [word for word in words if word.split("/")[0] in ROOMS and "/" in word]
        assert all((ROOT / word).exists() for word in named), command


@pytest.mark.parametrize("arguments", [["patch", "model.onnx", "--no-such-option"], ["ab", "analyse", "log"], ["fit"]])
def test_a_command_that_the_tool_does_not_take_is_noticed(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(arguments)


@each_page
def test_notes_are_known_and_what_is_not_run_has_a_reason(page: Path) -> None:
    for block in blocks(page):
        assert block.notes.keys() <= NOTES, block
        assert all(block.notes[name] for name in ("not run", "shortened", "server") if name in block.notes), block


@each_page
def test_lines_fit_the_page(page: Path) -> None:
    assert [line for line in page.read_text("utf-8").splitlines() if len(line) > 120] == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 200


def test_the_index_names_every_page() -> None:
    linked = {
        (INDEX.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+\.md)\)", INDEX.read_text("utf-8"))
    }
    assert {page.resolve() for page in PAGES[2:]} <= linked


@pytest.mark.slow
def test_the_picture_is_what_the_demo_model_does() -> None:
    drawn, committed = (re.split(r"rgb\((.*?)\)", text) for text in (draw(example()), OUTPUT.read_text("utf-8")))
    assert drawn[::2] == committed[::2]
    for ours, theirs in zip(drawn[1::2], committed[1::2], strict=True):
        assert all(abs(int(a) - int(b)) <= 2 for a, b in zip(ours.split(","), theirs.split(","), strict=True))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        titles = re.findall(r"^#+ (.+)$", found.read_text("utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(slug, titles), target


def slug(title: str) -> str:
    """The anchor of a title, as GitHub and MkDocs make it."""
    return re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
