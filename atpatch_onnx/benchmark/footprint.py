"""What a graph costs besides latency: bytes on disk, loading time and peak memory, each in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewriters.model import io as model_io
from rewriters.model.external_data import external_locations

from ..errors import RUNTIME_REFUSES
from ..paths import temporary_folder
from .arms import Feeds

__all__ = ["Footprint", "file_bytes", "footprints"]

ROUNDS = 3
"""Processes for each graph; the graphs take turns."""
LOADS = 2
"""Further loads in each process, where files and code are warm."""
PATIENCE = 600

CHILD = Path(__file__).with_name("load_process.py")


@dataclass(frozen=True)
class Footprint:
    """Costs of one graph, medians over processes.

    Attributes:
        file_bytes: of the model file and its external data.
        load_ms: time to a session.
        idle_bytes: most memory of a process that has onnxruntime and no model.
        peak_bytes: most memory after requests that nothing flags, None where there are none; and after all requests.
    """

    file_bytes: int
    load_ms: float
    idle_bytes: int
    peak_clean_bytes: int | None
    peak_bytes: int


def file_bytes(model: Path) -> int:
    """The model file with its external data files."""
    locations = external_locations(model_io.load(model))
    return model.stat().st_size + sum((model.parent / location).stat().st_size for location in set(locations))


def footprints(
    models: Sequence[Path],
    requests: Sequence[tuple[str, Feeds]],
    *,
    threads: int,
    provider: str,
    rounds: int = ROUNDS,
    memory_patterns: bool = True,
) -> list[Footprint]:
    """Of every model, over the same requests.

    Args:
        requests: "clean" or "flagged", and what to feed; clean ones run first.
        memory_patterns: onnxruntime's default; see `inference.sessions.session`.

    Raises:
        AtpatchError: ATP052 where a process fails.
    """
    answers: list[list[dict[str, Any]]] = [[] for _ in models]
    with temporary_folder() as folder:
        files = []
        for number, (kind, feeds) in enumerate(sorted(requests, key=lambda request: request[0] != "clean")):
            file = folder / f"{number}.npz"
            np.savez(file, allow_pickle=False, **feeds)
            files.append((kind, str(file)))
        for turn in range(rounds):
            order = range(len(models)) if turn % 2 else reversed(range(len(models)))
            for index in order:
                asked = {
                    "model": str(models[index]),
                    "threads": threads,
                    "provider": provider,
                    "memory_patterns": memory_patterns,
                    "requests": files,
                    "loads": LOADS,
                }
                answers[index].append(_ask(asked))
    return [_of(model, reports) for model, reports in zip(models, answers, strict=True)]


def _ask(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RUNTIME_REFUSES(
            f"loading and running {asked['model']} took more than {PATIENCE} s", "give smaller shapes"
        ) from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise RUNTIME_REFUSES(f"{asked['model']} fails in a separate process: {last[0][:400]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _of(model: Path, reports: Sequence[dict[str, Any]]) -> Footprint:
    def middle(values: Sequence[int]) -> int:
        return int(np.median(values))

    peaks = [report["ran"] for report in reports]
    return Footprint(
        file_bytes=file_bytes(model),
        load_ms=1e3 * float(np.median([seconds for report in reports for seconds in report["load_seconds"]])),
        idle_bytes=middle([report["idle"] for report in reports]),
        peak_clean_bytes=middle([peak["clean"] for peak in peaks]) if "clean" in peaks[0] else None,
        peak_bytes=middle([max([report["loaded"], *report["ran"].values()]) for report in reports]),
    )
