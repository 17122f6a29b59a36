"""How many small changes of the engine's meaning the tests notice: `python -m tests.mutants`, or `make mutants`.

A sample of each module's mutants is drawn with a seed. Each is run in a fork that imports the changed text in place of
the module, against the tests that reach the changed line; it is killed when one of them fails, or when they take far
longer than they should. What survives is listed; why it may is written in `survivors.toml`. The mutants of `named.py`
must all die.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import onnx_ir
import onnxruntime
import pytest
import torch
import transformers

from .choosing import LONG, LONG_FILES, QUICK, QUICK_FILES, Coverage, measure
from .named import NAMED
from .operators import Mutant, mutants_of

PACKAGES = ("rewriters/subgraphs", "rewriters/finding")
ALSO = ("atpatch_onnx/ab", "atpatch_onnx/fitting", "rewriters/editing", "rewriters/lowering")
"""Where some of the named mutants are."""
TESTS = ("tests/rewriters", "tests/inspection", "tests/ab", "tests/statistics", "tests/fitting/test_calibration.py")
REASONS = Path(__file__).with_name("survivors.toml")


class _Changed(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._changed = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._changed, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module: the changed one."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self._mutant = mutant

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        file = str(Path(self._mutant.path).resolve())
        return importlib.util.spec_from_file_location(
            fullname, file, loader=_Changed(fullname, file, self._mutant.source)
        )


def start(mutant: Mutant, tests: list[str]) -> int:
    """Run the tests on the mutant in a fork. Returns its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    status = 1
    try:
        sys.meta_path.insert(0, _Finder(mutant))
        status = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", *tests]))
    except BaseException:  # a change can break anything, the import of the tests too
        status = 1
    os._exit(status)


def run(mutants: list[Mutant], covered: Coverage, jobs: int) -> dict[str, str]:
    """Verdict of each mutant: "killed", "time" (too), "survived" or "unreached".

    What survives the quick tests meets the long ones too.
    """
    verdicts = _round(mutants, covered, jobs, QUICK, QUICK_FILES)
    left = [mutant for mutant in mutants if verdicts[mutant.name] == "survived"]
    return verdicts | _round(left, covered, jobs, LONG, LONG_FILES)


def _round(mutants: list[Mutant], covered: Coverage, jobs: int, seconds: float, files: int) -> dict[str, str]:
    verdicts: dict[str, str] = {}
    waiting = list(reversed(mutants))
    running: dict[int, tuple[Mutant, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            if tests := covered.tests_for(mutant, seconds, files):
                limit = 60 + 10 * sum(covered.seconds.get(test, 0.0) for test in tests)
                running[start(mutant, tests)] = (mutant, time.monotonic() + limit)
            else:
                verdicts[mutant.name] = "unreached"
        time.sleep(0.02)
        for child, (mutant, deadline) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended and time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                verdicts[mutant.name] = "time"
            elif ended:
                verdicts[mutant.name] = "survived" if status == 0 else "killed"
            else:
                continue
            del running[child]
            print(
                f"{len(verdicts):5} of {len(mutants)}  {verdicts[mutant.name]:9} {mutant.name}",
                file=sys.stderr,
                flush=True,
            )
    return verdicts


def sample(each: int, seed: int, only: str) -> list[Mutant]:
    """`each` mutants of every module, all of a module that has fewer."""
    drawn: list[Mutant] = []
    for package in PACKAGES:
        for path in sorted(map(str, Path(package).rglob("*.py"))):
            if only in path:
                every = mutants_of(path)
                drawn += sorted(
                    random.Random(f"{seed} {path}").sample(every, min(each, len(every))), key=lambda mutant: mutant.line
                )
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--each", type=int, default=12, help="mutants drawn of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only modules whose path holds this")
    parser.add_argument("--tests", nargs="*", default=TESTS)
    parser.add_argument("--named", action="store_true", help="only the mutants of named.py")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    assert hypothesis and onnx_ir and onnxruntime and torch and transformers  # imported once here, not in every fork
    covered = _measured(list(options.tests))
    must = [mutant for mutant in NAMED if options.only in mutant.path]
    drawn = [] if options.named else sample(options.each, options.seed, options.only)
    verdicts = run([*must, *drawn], covered, options.jobs)
    reasons = tomllib.loads(REASONS.read_text()) if REASONS.exists() else {}
    alive = [name for name, verdict in verdicts.items() if verdict in ("survived", "unreached")]
    score = Counter("alive" if verdicts[mutant.name] in ("survived", "unreached") else "killed" for mutant in drawn)
    lost = [mutant.name for mutant in must if mutant.name in alive]
    result = {
        "seed": options.seed,
        "each": options.each,
        "mutants": len(drawn),
        "killed": score["killed"],
        "share": round(score["killed"] / len(drawn), 4) if drawn else None,
        "named": {mutant.name: verdicts[mutant.name] for mutant in must},
        "survivors": {
            name: reasons.get(name.split(" ", 1)[0].partition(":")[0], {}).get(name.split(" ", 1)[1], "")
            for name in alive
        },
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))
    return 1 if lost or (drawn and score["killed"] < 0.9 * len(drawn)) else 0


def _measured(tests: list[str]) -> Coverage:
    """Coverage taken in a fork, so that this process never imports what will be changed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            found = measure(tests, (*PACKAGES, *ALSO))
            text = json.dumps(
                [[[path, line, sorted(some)] for (path, line), some in found.lines.items()], found.seconds]
            )
            with os.fdopen(write, "w") as out:
                out.write(text)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as into:
        text = into.read()
    os.waitpid(child, 0)
    if not text:
        raise SystemExit("the tests must pass before they are tried on mutants")
    lines, seconds = json.loads(text)
    found = Coverage(seconds=seconds)
    for path, line, some in lines:
        found.lines[path, line] = set(some)
    return found


if __name__ == "__main__":
    sys.exit(main())
