"""Which tests can see a change: those that ran its line, the quick ones first."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coverage
import pytest

from .operators import Mutant

__all__ = ["LONG", "LONG_FILES", "QUICK", "QUICK_FILES", "Coverage", "measure"]

QUICK, QUICK_FILES = 10.0, 3
"""Seconds of tests in the first round, and of how many files, since reading a file in takes as long as its quick tests.
"""
LONG, LONG_FILES = 60.0, 12
"""The same for what is left."""


@dataclass
class Coverage:
    """Tests by line and by file, and how long each took.

    Attributes:
        lines: (path, line) → tests that ran it.
        seconds: test → duration.
    """

    lines: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    seconds: dict[str, float] = field(default_factory=dict)

    def tests_for(self, mutant: Mutant, most: float, files: int) -> list[str]:
        """Tests of the mutant's line (of all of its module for a line that runs at import), up to so many seconds.

        The first half of the time is for the module's own test file, the rest for those with the most such tests.
        Functions take turns, since two cases of one function notice much the same, and the quickest go first.
        """
        tests = self.lines.get((mutant.path, mutant.line)) or {
            t for (path, _), some in self.lines.items() if path == mutant.path for t in some
        }
        mirror = _mirror(mutant.path)
        by_file: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=lambda test: (self.seconds.get(test, 0.0), test)):
            by_file[test.partition("::")[0]].append(test)
        chosen_files = sorted(by_file, key=lambda file: (file != mirror, -len(by_file[file])))[:files]
        turns = []
        for file in chosen_files:
            places: dict[str, int] = defaultdict(int)
            for test in by_file[file]:
                function = test.partition("[")[0]
                turns.append((places[function], self.seconds.get(test, 0.0), test))
                places[function] += 1
        turns.sort()
        own = [turn for turn in turns if turn[-1].startswith(f"{mirror}::")]
        chosen: dict[str, None] = {}
        spent = 0.0
        for some, until in ((own, most / 2), (turns, most)):
            for _, seconds, test in some:
                if test in chosen:
                    continue
                if chosen and spent + seconds > until:
                    break
                spent += seconds
                chosen[test] = None
        return list(chosen)


def _mirror(path: str) -> str:
    """`rewriters/finding/axes.py` → `tests/rewriters/finding/test_axes.py`."""
    folder, _, name = path.rpartition("/")
    return f"tests/{folder}/test_{name}"


class _Watching:
    """A pytest plugin: names the running test to coverage, and takes its time."""

    def __init__(self, watch: coverage.Coverage) -> None:
        self._watch = watch
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._watch.switch_context(item.nodeid)
        started = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = time.perf_counter() - started
        return result


def measure(tests: Sequence[str], packages: Sequence[str]) -> Coverage:
    """Run the fast tests once, all their cases, unchanged: exports and trainings take minutes.

    Raises: RuntimeError where one fails.
    """
    watch = coverage.Coverage(data_file=None, source=list(packages))
    watching = _Watching(watch)
    watch.start()
    status = pytest.main(
        ["-q", "-x", "-m", "fast or cases", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", *tests],
        plugins=[watching],
    )
    watch.stop()
    if status != 0:
        raise RuntimeError(f"the tests fail without any change (pytest ended with {status})")
    found = Coverage(seconds=watching.seconds)
    data = watch.get_data()
    for file in data.measured_files():
        path = os.path.relpath(file, Path.cwd())
        for line, contexts in data.contexts_by_lineno(file).items():
            if known := {context for context in contexts if context}:
                found.lines[path, line] |= known
    return found
