"""What a patch costs: prefill and decode steps of two sessions in turn, one thread, and the memory of each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..answers import Figures
from .loops import KvLoop

__all__ = ["speed"]

ROUNDS = 15
_MEMORY = (
    "import sys, numpy as np; from pathlib import Path; from models.evidence.decoders.loops import KvLoop;"
    " loop = KvLoop(Path(sys.argv[1])); loop.answer([5] * 40, 4, -1);"
    " print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmRSS')))"
)


def speed(before: Path, after: Path, clean: Sequence[int], attacked: Sequence[int]) -> Figures:
    """Ratios patched / original: medians over rounds in which both are run, one after the other."""
    loops = [KvLoop(before), KvLoop(after)]
    caches = [loop.prefilled(clean) for loop in loops]
    found: Figures = {
        "tokens": {"silent": len(clean), "flagged": len(attacked)},
        "prefill_silent": _in_turn([lambda one=one: one.prefilled(clean) for one in loops]),
        "prefill_flagged": _in_turn([lambda one=one: one.prefilled(attacked) for one in loops]),
        "decode": _in_turn(
            [lambda one=one, own=own: one.call([5], len(clean), own) for one, own in zip(loops, caches, strict=True)]
        ),
    }
    kilobytes = [_resident(path) for path in (before, after)]
    return {**found, "resident_mb": [round(one / 1024) for one in kilobytes], "memory": kilobytes[1] / kilobytes[0]}


def _in_turn(calls: Sequence[Callable[[], Any]]) -> Figures:
    seconds = np.zeros((ROUNDS, len(calls)))
    for one in calls:
        one()
    for row in seconds:
        for at, one in enumerate(calls):
            started = time.perf_counter()
            one()
            row[at] = time.perf_counter() - started
    ratios = seconds[:, 1] / seconds[:, 0]
    return {
        "ratio": round(float(np.median(ratios)), 4),
        "ratio_of_fastest": round(float(seconds[:, 1].min() / seconds[:, 0].min()), 4),
        "quartiles": [round(float(one), 4) for one in np.quantile(ratios, (0.25, 0.75))],
        "ms": [round(1000 * float(one), 2) for one in np.median(seconds, 0)],
        "rounds": ROUNDS,
    }


def _resident(path: Path) -> int:
    """Kilobytes of a process that has answered one prompt."""
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(path)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
