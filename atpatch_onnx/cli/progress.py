"""Progress on stderr: one bar per step on a terminal; elsewhere nothing, or a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .rendering import note

__all__ = ["bars", "bars_or_lines"]

EVERY = 30.0
"""Seconds between two lines."""


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """Yields (step, done, total) → None, or None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def advance(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = shown.add_task(step, total=total)
            shown.update(tasks[step], completed=done, total=total)

        yield advance


@contextmanager
def bars_or_lines() -> Iterator[Callable[[str, int, int], None]]:
    """Yields (step, done, total) → None: bars on a terminal, else a line every 30 seconds."""
    with bars() as shown:
        yield _lines() if shown is None else shown


def _lines() -> Callable[[str, int, int], None]:
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
