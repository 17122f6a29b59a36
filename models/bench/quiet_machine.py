"""Whether others kept the cores busy while something was measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["BUSY", "Watch", "busy_seconds"]

BUSY = 0.1
"""Share of all cores taken by others above which a measurement is marked."""

_STAT = Path("/proc/stat")


class Watch:
    """Started when made; `others` is the share of all cores that other processes took since, None where the system does
    not tell.
    """

    def __init__(self) -> None:
        self._wall, self._own, self._all = time.perf_counter(), _own(), busy_seconds()

    @property
    def others(self) -> float | None:
        before, after = self._all, busy_seconds()
        if before is None or after is None:
            return None
        whole = (time.perf_counter() - self._wall) * (os.cpu_count() or 1)
        return round(max(0.0, after - before - (_own() - self._own)) / whole, 3)


def _own() -> float:
    """Seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def busy_seconds() -> float | None:
    """Busy seconds of all cores since boot, stolen ones too; None where the system does not tell."""
    if not _STAT.is_file():
        return None
    user, nice, system, _, _, irq, soft, steal = map(int, _STAT.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
