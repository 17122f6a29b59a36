"""One line of the table: a row at one shape, all its requests, on one thread and on two.

Kept as a file each, so a broken run goes on.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atpatch_onnx.benchmark.benchmarker import time_requests
from atpatch_onnx.benchmark.footprint import footprints
from atpatch_onnx.benchmark.options import BenchOptions
from atpatch_onnx.benchmark.paired_latency import Spread, time_pairs
from atpatch_onnx.benchmark.requests import Asked, Asker
from atpatch_onnx.benchmark.result import ratio_interval
from atpatch_onnx.patching.apply import patch_model
from rewriters.model import io as model_io
from rewriters.model.atomic import write_file

from .builders import build, folder
from .hotfixes import hotfix
from .quiet_machine import Watch
from .rows import THREADS, Row

__all__ = ["FULL", "QUICK", "Effort", "Figures", "kept", "measure"]

CPU = "CPUExecutionProvider"

Figures = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """pairs, seconds: of a request in both graphs. torch_seconds: of one in torch. rounds: processes a graph for load
    time and memory.
    """

    pairs: int
    seconds: float
    torch_seconds: float
    rounds: int


FULL = Effort(pairs=200, seconds=6.0, torch_seconds=3.0, rounds=3)
QUICK = Effort(pairs=4, seconds=0.5, torch_seconds=0.2, rounds=1)


def kept(row: Row, shape: Mapping[str, int], quick: bool) -> Figures | None:
    """What an earlier run found, whatever has changed since."""
    file = _file(row, shape, quick)
    return json.loads(file.read_text()) if file.is_file() else None


def measure(row: Row, shape: Mapping[str, int], *, quick: bool, fresh: bool, say: Say) -> Figures:
    """The figures of a line, from its file where graph, patch and effort are the same."""
    effort = QUICK if quick else FULL
    original = build(row.model)
    fitted = hotfix(original, say, every=row.every, fresh=fresh and shape == row.shapes[0] and row.passes == "one")
    with tempfile.TemporaryDirectory(dir=folder()) as scratch:
        # A folder of its own: nothing beside the patched file belongs to another.
        patched = Path(scratch) / original.name
        done = patch_model(original, patched, hotfix=fitted, passes=row.passes)
        key = _key(original, patched, effort)
        before = kept(row, shape, quick)
        if before is not None and before["key"] == key and not fresh:
            return before
        started, watch = time.perf_counter(), Watch()
        asked = _asked(row, shape, (original, patched))
        names = [name for name, _ in asked]
        requests = [one for _, one in asked]
        threads: dict[str, Any] = {}
        for count in THREADS:
            say(f"{count} thread(s)")
            timed = time_requests(
                (original, patched), requests, BenchOptions(threads=count, pairs=effort.pairs, seconds=effort.seconds)
            )
            threads[str(count)] = {name: one.to_json() for name, one in zip(names, timed, strict=True)}
            if row.torch and row.passes == "one":
                for name, told in _torch(row.model, requests[0], count, effort.torch_seconds).items():
                    threads[str(count)][name]["torch"] = told
        say("loading")
        weighed = footprints(
            (original, patched),
            [(one.kind, one.feeds) for one in requests],
            threads=1,
            provider=CPU,
            rounds=effort.rounds,
        )
    figures: Figures = {
        "key": key,
        "row": row.name,
        "shape": dict(shape),
        "passes": row.passes,
        "nodes": [done.nodes_before, done.nodes_after],
        "sites": len(done.sites),
        "detector": done.detector,
        "threads": threads,
        "original": asdict(weighed[0]),
        "patched": asdict(weighed[1]),
        "others": watch.others,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_file(_file(row, shape, quick), (json.dumps(figures, indent=1, allow_nan=False) + "\n").encode())
    return figures


def _asked(row: Row, shape: Mapping[str, int], models: tuple[Path, Path]) -> Sequence[tuple[str, Asked]]:
    """Requests by the row's names for them."""
    asker = Asker(*models, threads=max(THREADS), provider=CPU)
    found: dict[str, Asked] = {}
    for request in row.requests:
        if request.share:
            made = {one.kind: one for one in asker.random(shape, request.share)}
            found[request.name] = made["flagged"]
            silent = made["clean"]
    named = [(request.name, found.get(request.name, silent)) for request in row.requests]
    assert not asker.remarks, asker.remarks
    return named


def _torch(model: str, asked: Asked, threads: int, seconds: float) -> Figures:
    """The paper's form on the same inputs."""
    import torch

    from .paper import PaperForm, load

    form = PaperForm(
        load(model), {name: array for name, array in asked.feeds.items() if not name.startswith("atpatch")}
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        told = {}
        for name, flagged in (("nothing flagged", False), ("flagged", True)):
            taken = time_pairs(form.original, form.request(flagged), pairs=100, seconds=seconds, fewest=4)
            told[name] = {
                "original_ms": Spread.of(taken[:, 0] * 1e3).median,
                "ratio": asdict(ratio_interval(taken)),
                "pairs": len(taken),
            }
        return told
    finally:
        torch.set_num_threads(before)


def _file(row: Row, shape: Mapping[str, int], quick: bool) -> Path:
    sizes = "-".join(f"{name}{size}" for name, size in shape.items())
    every = f"-every{row.every}" if row.every > 1 else ""
    path = folder() / "lines" / f"{row.model}-{row.passes}{every}-{sizes}{'-quick' if quick else ''}.json"
    path.parent.mkdir(exist_ok=True)
    return path


def _key(original: Path, patched: Path, effort: Effort) -> str:
    """Of what decides the figures: both graphs without their stamps' weights, and the effort."""
    import onnxruntime

    digests = [model_io.digest(model_io.load(path)) for path in (original, patched)]
    return hashlib.sha256(repr((digests, asdict(effort), onnxruntime.__version__)).encode()).hexdigest()[:16]
