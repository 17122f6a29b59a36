"""How a command answers a mistake: a line with what was expected and found, and a line with the fix."""

from __future__ import annotations

from collections.abc import Sequence

from ..conftest import Run

__all__ = ["assert_refused"]


def assert_refused(run: Run, code: str, words: Sequence[str]) -> None:
    """The answer is these two lines, with the code, and with the words in the first."""
    line, fix, *more = run.err.splitlines()
    assert line.startswith(f"error {code}: ") and fix.startswith("  fix: ") and not more, run.err
    assert all(word in line for word in words), line
