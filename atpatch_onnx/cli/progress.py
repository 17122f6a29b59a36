"""Progress on stderr: one bar on a terminal, elsewhere a line every 30 seconds.

A command reports (step, done, total). The bar is that of the current step, and says how long the command has run. A
line says the step, its share, and how long it will take if it goes on like this.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .rendering import note

__all__ = ["Advance", "bars"]

EVERY = 30.0
"""Seconds between two lines: a log shows that a command is alive, and stays short."""

Advance = Callable[[str, int, int], None]


@contextmanager
def bars() -> Iterator[Advance]:
    """Yields (step, done, total) → None."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    what, share = TextColumn("{task.description}"), TaskProgressColumn()
    columns = (what, BarColumn(), share, TimeRemainingColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("starting", total=None)
        yield lambda step, done, total: shown.update(task, description=step, completed=done, total=total)


def _lines() -> Advance:
    started = told = time.monotonic()
    step_started: dict[str, float] = {}

    def advance(step: str, done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        begun = step_started.setdefault(step, now)
        if now - told < EVERY or not total:
            return
        told = now
        left = (now - begun) / done * (total - done) if done and now > begun else None
        rest = "" if left is None else f", this step about {left:.0f} s more"
        note(f"{now - started:.0f} s: {step}, {done / total:.0%}{rest}")

    return advance
