"""Code blocks of README and docs, and how tests run them.

A block in the language `console` holds commands behind `$ `. A line that ends with a backslash goes on in the next one;
other lines are what the command prints. A block in the language `python` holds code. HTML comments right above a block
are notes to the tests: `<!-- NAME: TEXT -->`.
"""

from __future__ import annotations

import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from .conftest import Run

ROOT = Path(__file__).parent.parent

_FENCE = re.compile(
    r"(?P<notes>(?:^<!--[^\n]*-->\n)*)"
    r"^(?P<indent> *)```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<text>.*?)^(?P=indent)``` *$",
    re.MULTILINE | re.DOTALL,
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"$`\\]*\"")
_SHELL = re.compile(r"[|<>&;*$`]")
"""What only a shell understands, where it is not quoted."""


@dataclass(frozen=True)
class Block:
    """A code block. `line`: of its fence, counted from 1; `options`: what follows the language; `notes`: above it."""

    page: Path
    line: int
    language: str
    options: str
    text: str
    notes: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Of a console block, one entry a command, without comments at its end."""
        return [command for command, _ in self.steps]

    @property
    def steps(self) -> list[tuple[str, list[str]]]:
        """Of a console block, each command and the lines that it prints."""
        found: list[tuple[str, list[str]]] = []
        for line in re.sub(r"\\\n\s*", "", self.text).splitlines():
            if line.strip().startswith("$ "):
                found.append((line.strip().removeprefix("$ "), []))
            elif line.strip() and found:
                found[-1][1].append(line)
        return found


def blocks(page: Path, text: str | None = None) -> Iterator[Block]:
    """The code blocks of a page, in order; `text` where it is not what the file holds."""
    text = page.read_text("utf-8") if text is None else text
    for found in _FENCE.finditer(text):
        indent = len(found["indent"])
        inner = "".join(line[indent:] if line.strip() else line for line in found["text"].splitlines(keepends=True))
        line = text.count("\n", 0, found.start("indent")) + 1
        notes = dict(re.findall(r"^<!-- ([^:\n]+?)(?:: (.*))? -->$", found["notes"], re.MULTILINE))
        yield Block(page, line, found["language"], found["options"].strip(), inner, notes)


def run_python(words: list[str]) -> Run:
    """What `python` would run with these words, in this process, which has imported torch and transformers already."""
    run, words = (runpy.run_module, words[1:]) if words[0] == "-m" else (runpy.run_path, words)
    out, err, code, before = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = words
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
            run(words[0], run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Run(code, out.getvalue(), err.getvalue())


def run_command(command: str, folder: Path, atpatch: Callable[..., Run]) -> Run:
    """Run one command in the current folder: `atpatch-onnx`, and a file or a module of Python, in this process if no
    shell is needed, the rest in bash.
    """
    assert Path.cwd() == folder
    if not _SHELL.search(_QUOTED.sub("", command.split(" #")[0])):
        words = shlex.split(command, comments=True)
        if words[:1] == ["atpatch-onnx"]:
            return atpatch(*words[1:])
        if words[:2] == ["python", "-m"] or (words[:1] == ["python"] and words[1].endswith(".py")):
            return run_python(words[1:])
    tools = folder / ".tools"
    tools.mkdir(exist_ok=True)
    for name, line in {"atpatch-onnx": "-m atpatch_onnx", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {line} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return Run(done.returncode, done.stdout, done.stderr)
