"""One case after another in a child process, which its parent watches: a crash, a hang or too much memory is one
finding, not the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Finding", "Summary", "run"]

MEMORY = 12 << 30
"""Address space of a child. Libraries reserve much more than they use."""
SECONDS = 60.0
"""Of one case, all its commands together, on a busy machine."""
_LONGEST_ERROR = 2000
_CODES = {0, 1, 2, 3}


@dataclass(frozen=True)
class Finding:
    """What went wrong in one case."""

    kind: str
    seed: int
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.kind} --seed {self.seed} --only {self.number}: {self.what}"


@dataclass
class Summary:
    """Cases run, how their commands ended (exit codes and ATP codes), and findings."""

    cases: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def run(kind: str, count: int, seed: int, keep: Path | None = None, only: int | None = None) -> Summary:
    """Run cases of a kind; those with findings are copied into `keep`."""
    summary = Summary()
    start, end = (0, count) if only is None else (only, only + 1)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        while start < end:
            start = _batch(kind, seed, start, end, Path(scratch), keep, summary)
    return summary


def _batch(kind: str, seed: int, start: int, end: int, scratch: Path, keep: Path | None, summary: Summary) -> int:
    """Cases until the child ends, as it should or not; the next number."""
    arguments = [sys.executable, "-m", "tests.fuzz.running", kind, str(seed), str(start), str(end), str(scratch)]
    child = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert child.stdout is not None
    number, what = start, ""
    with selectors.DefaultSelector() as waiting, child.stdout as lines:
        waiting.register(lines, selectors.EVENT_READ)
        while True:
            if not waiting.select(SECONDS):
                what = f"no end after {SECONDS:g} s"
                child.kill()
                break
            line = lines.readline()
            if not line:
                break
            told = json.loads(line)
            summary.cases += 1
            summary.ends.update(told["ends"])
            for problem in told["problems"]:
                _found(Finding(kind, seed, number, problem), scratch / str(number), keep, summary)
            shutil.rmtree(scratch / str(number), ignore_errors=True)
            number += 1
    child.wait()
    if number < end:
        summary.cases += 1
        _found(
            Finding(kind, seed, number, what or f"the process ended with {child.returncode}"),
            scratch / str(number),
            keep,
            summary,
        )
        number += 1
    return number


def _found(finding: Finding, folder: Path, keep: Path | None, summary: Summary) -> None:
    summary.findings.append(finding)
    if keep is not None and folder.is_dir():
        target = keep / f"{finding.kind}-{finding.seed}-{finding.number}"
        shutil.copytree(folder, target, dirs_exist_ok=True)
        (target / "finding.txt").write_text(f"{finding}\n")


def _child(kind: str, seed: int, start: int, end: int, scratch: Path) -> None:
    from .cases import KINDS

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _alarm)
    told = os.fdopen(os.dup(1), "w")
    for number in range(start, end):
        folder = scratch / str(number)
        folder.mkdir()
        os.chdir(folder)
        commands = KINDS[kind](random.Random(f"{kind}/{seed}/{number}"), folder)
        ends, problems = [], []
        for arguments in commands:
            if not Path(arguments[1]).exists() and arguments[0] == "unpatch":
                continue  # nothing was patched
            finished, problem = _command(arguments, folder)
            ends.append(f"{arguments[0]} {finished}")
            problems += [problem] if problem else []
        os.chdir(scratch)
        told.write(json.dumps({"ends": ends, "problems": problems}) + "\n")
        told.flush()


def _alarm(number: int, frame: object) -> None:
    raise TimeoutError("the command took too long")


def _command(arguments: list[str], folder: Path) -> tuple[str, str | None]:
    """How one command ended, and what is wrong with that."""
    from click.testing import CliRunner

    from atpatch_onnx.cli import cli

    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    started = time.monotonic()
    signal.alarm(int(SECONDS / 2))
    result = CliRunner().invoke(cli, ["--debug", *arguments])
    signal.alarm(0)
    line = " ".join(arguments)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        from rewriters.errors import AtpatchError

        if isinstance(error, AtpatchError):
            changed = {path.name for path in folder.iterdir() if before.get(path.name) != path.stat().st_mtime_ns}
            return error.code, f"{line}: {error.code}, but wrote {sorted(changed)}" if changed else None
        where = traceback.extract_tb(error.__traceback__)
        inner = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in where[-6:]]
        return "internal error", f"{line}: {type(error).__name__}: {str(error)[:_LONGEST_ERROR]} at {' > '.join(inner)}"
    if result.exit_code not in _CODES:
        return str(result.exit_code), f"{line}: exit status {result.exit_code}"
    left = {path.name for path in folder.iterdir()} - before.keys()
    expected = {arguments[arguments.index("-o") + 1]} if "-o" in arguments else set()
    if left - expected or (result.exit_code == 0 and expected - {path.name for path in folder.iterdir()}):
        return str(result.exit_code), f"{line}: exit status {result.exit_code}, and left {sorted(left)}"
    if time.monotonic() - started > SECONDS / 3:
        return str(result.exit_code), f"{line}: took {time.monotonic() - started:.0f} s"
    return str(result.exit_code), _usable(folder / next(iter(expected & left), ""), line)


def _usable(path: Path, line: str) -> str | None:
    """What was written must be readable by us."""
    from atpatch_onnx.hotfix.file import Hotfix
    from rewriters.errors import AtpatchError
    from rewriters.model import io as model_io

    with contextlib.suppress(KeyError):
        try:
            {".onnx": model_io.load, ".hotfix": Hotfix.load}[path.suffix](path)
        except AtpatchError as error:
            return f"{line}: what it wrote is not usable: {error}"
    return None


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
