"""A patch on CUDA: `python -m models.bench.gpu`. Needs the extras gpu, export and report; writes gpu.json into
models/results.

For each of `gpu_models.FULL`:

1. *Equality* with the CPU: a silent request and a firing one, flags too. Products are in full float32 there.
2. *Copies* between host and device, from the profile: with open sizes, and with fixed ones, where none is expected.
3. *A captured CUDA graph* of the branch-free patch: the same answers as without, when a later request is written into
   its memory, and when the threshold moves.
4. *Ratios* patched / original in turns, from device memory to device memory: branch-free, with branches, captured.

`--provider cpu` tries all of it out with tiny models on the CPU and writes nothing.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import onnx

from atpatch_onnx.errors import AtpatchError
from rewriters.model.atomic import write_file

from .device_runs import Device
from .gpu_checks import Files, Live, captured, copies, equality, misses, ratios
from .gpu_models import FULL, SEED, TINY, GpuModel, built, fitted, patched

__all__ = ["FULL_EFFORT", "QUICK_EFFORT", "Effort", "main", "measure"]

RESULTS = Path(__file__).parents[1] / "results" / "gpu.json"
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "onnx", "numpy", "torch", "transformers", "atpatch-onnx")
NOT_AT_HAND = 2
"""Exit status where there is no such provider."""

Figures = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """pairs, seconds: of one ratio."""

    pairs: int
    seconds: float


FULL_EFFORT = Effort(pairs=200, seconds=1.0)
QUICK_EFFORT = Effort(pairs=2, seconds=0.01)


@click.command()
@click.option("--provider", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="Tiny models, a few pairs: does it run? Nothing is written.")
@click.option("--only", metavar="TEXT", default="", help="Only models whose name contains this; nothing is written.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RESULTS,
    show_default=False,
    help="File for the figures; models/results/gpu.json by default.",
)
def main(provider: str, quick: bool, only: str, output: Path) -> None:
    """Measure a patch on CUDA. Exits with 1 where an expectation is missed, with 2 without a CUDA provider."""
    started, device = time.perf_counter(), Device(provider == "cuda")
    try:
        device.check()
    except AtpatchError as error:
        click.echo(f"nothing measured: {' '.join(str(error).split())}", err=True)
        sys.exit(NOT_AT_HAND)
    quick = quick or not device.cuda
    models = [one for one in (TINY if quick else FULL) if only in one.name]
    figures = [
        measure(one, device, QUICK_EFFORT if quick else FULL_EFFORT, lambda text: click.echo(text, err=True))
        for one in models
    ]
    missed = [line for one in figures for line in misses(one, captures=device.cuda)]
    for line in missed:
        click.echo(f"missed: {line}", err=True)
    if quick or only:
        click.echo("a try: nothing is written", err=True)
    else:
        results = {**_setup(), "seconds": round(time.perf_counter() - started, 1), "models": figures}
        write_file(output, (json.dumps(results, indent=1, allow_nan=False) + "\n").encode())
    sys.exit(bool(missed))


def measure(model: GpuModel, device: Device, effort: Effort, say: Say) -> Figures:
    """The figures of one model."""
    started = time.perf_counter()
    say(f"{model.title}: building")
    path = built(model)
    hotfix = fitted(model, path)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = Files(path, folder / "free.onnx", folder / "branches.onnx", folder / "telling.onnx", folder)
        nodes = {
            "original": len(onnx.load(path, load_external_data=False).graph.node),
            "branch-free": patched(path, hotfix, files.free, "none"),
            "branches": patched(path, hotfix, files.branches, "if"),
        }
        patched(path, hotfix, files.telling, "none", telemetry=True)
        first = next(iter(model.shapes.values()))
        say(f"{model.title}: equality")
        equal = equality(files, device, first)
        say(f"{model.title}: copies")
        copied = copies(files, device, first)
        live, shapes = Live.of(files, device), {}
        for name, sizes in model.shapes.items():
            say(f"{model.title}, {name}: captured graph and ratios")
            kept, pair = captured(files, device, sizes)
            taken = ratios(live, sizes, pair, pairs=effort.pairs, seconds=effort.seconds)
            del pair  # the next shape needs its room
            shapes[name] = {"sizes": dict(sizes), "captured": kept, "ratios": taken}
            say(f"{model.title}, {name}: {_told(taken)}")
    return {
        "model": model.title,
        "sites": len(hotfix.sites),
        "detector": hotfix.detector,
        "mend": hotfix.mend,
        "nodes": nodes,
        "tolerance": model.tolerance,
        "equality": equal,
        "copies": copied,
        "shapes": shapes,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _told(taken: Mapping[str, Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{form} " + ", ".join(f"{kind} {one['ratio']['median']:.3f}" for kind, one in requests.items())
        for form, requests in taken.items()
    )


def _setup() -> Figures:
    """What decides the figures: versions, device, seeds."""
    import onnxruntime

    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "build": onnxruntime.get_build_info(),
        "device": _device(),
        "seeds": {"weights": SEED, "detectors": SEED, "requests": SEED},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _device() -> dict[str, str]:
    """Name, memory and driver of the first GPU, as its driver's own tool says."""
    fields = ("name", "memory.total", "driver_version")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    asked = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return dict(zip(fields, (part.strip() for part in done.stdout.split(",")), strict=False))


if __name__ == "__main__":
    main()
