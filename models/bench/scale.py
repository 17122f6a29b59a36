"""Patching against model size: `python -m models.bench.scale`. Writes scale.json and scale.svg into models/results.

Two series of Llama-shaped graphs (see `llama`): ever more nodes with tiny weights inside, and real shapes with ever
more bytes outside. Each is patched with a `profile` hotfix at every site by the command line, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from onnx import TensorProto

from atpatch_onnx.benchmark.footprint import file_bytes
from atpatch_onnx.hotfix.file import Hotfix, HotfixSite
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.plan import BenignPair, Dense, Profile, SitePlan
from rewriters.sites import Site

from ..victims import versions
from .llama import SHAPES, Llama, save_hollow, save_random
from .quiet_machine import Watch

__all__ = ["BOUNDS", "LAYERS", "exponent", "hotfix_at_every_site"]

RESULTS = Path(__file__).parents[1] / "results"

LAYERS = (12, 24, 48, 96, 192)
"""Of the series of nodes; the last makes 10,000."""
BOUNDS = {"nodes": {"patch_seconds": 3.0}, "bytes": {"patch_seconds": 15.0, "peak_bytes": 1e9}}
"""For 10,000 nodes, and for 7 billion parameters."""
HIDDEN = 32
ROOT = Path(__file__).parents[2]


@click.command()
@click.option("--quick", is_flag=True, help="The two smallest of each series; nothing is written.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder for scale.json and scale.svg.",
)
def main(quick: bool, output: Path) -> None:
    """Patch graphs of many sizes and time it. Exits with 1 where a bound is missed."""
    started, watch = time.perf_counter(), Watch()
    most = 2 if quick else None
    nodes = [
        _measure(f"{layers} layers", Llama(layers, 32, 64, 4, words=99, dtype=TensorProto.FLOAT))
        for layers in LAYERS[:most]
    ]
    sizes = [_measure(name, llama) for name, llama in list(SHAPES.items())[:most]]
    results = {
        "versions": versions(),
        "cores": os.cpu_count(),
        "others": watch.others,
        "seconds": round(time.perf_counter() - started, 1),
        "finder_exponent": round(exponent(nodes, "find_seconds_without_collector"), 3),
        "finder_exponent_with_collector": round(exponent(nodes, "find_seconds"), 3),
        "patch_exponent": round(exponent(nodes, "patch_seconds"), 3),
        "nodes": nodes,
        "bytes": sizes,
    }
    click.echo(
        f"seconds grow as nodes to the power of {results['finder_exponent']} (finder), {results['patch_exponent']}"
        " (patch)"
    )
    if quick:
        return
    output.mkdir(parents=True, exist_ok=True)
    (output / "scale.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    draw(results, output / "scale.svg")
    judged = {"nodes": nodes[-1], "bytes": next(one for one in sizes if one["name"] == "7 B")}
    missed = [
        f"{series}: {name} {judged[series][name]:g}"
        for series, few in BOUNDS.items()
        for name, most in few.items()
        if judged[series][name] > most
    ]
    for line in missed:
        click.echo(f"over the bound: {line}", err=True)
    sys.exit(bool(missed))


def hotfix_at_every_site(path: Path) -> Hotfix:
    """Detectors of the usual size with random weights: it is their writing that is timed, nothing runs."""
    proto = model_io.load(path)
    sites, _ = find_sites(proto)
    generator = np.random.default_rng(0)
    kept = [
        HotfixSite(site.id, layer, site.heads, site.fingerprint, _plan(site, generator))
        for layer, site in enumerate(sites)
    ]
    group = tuple(site.id for site in sites)
    return Hotfix(tuple(kept), 0.5, model_io.weights_digest(proto, path.parent), groups=(group,))


def exponent(measured: list[dict[str, Any]], name: str) -> float:
    """Slope of the logarithms over nodes: 1 is linear."""
    x, y = (np.log([one[field] for one in measured]) for field in ("nodes", name))
    return float(np.polyfit(x, y, 1)[0])


def _plan(site: Site, generator: np.random.Generator) -> SitePlan:
    heads, width = site.heads or 1, site.head_dim or 1
    features = 2 * heads

    def dense(inputs: int, outputs: int) -> Dense:
        return Dense(generator.standard_normal((inputs, outputs)).astype(np.float32), np.zeros(outputs, np.float32))

    detector = Profile(
        (dense(features, HIDDEN), dense(HIDDEN, 1)), np.zeros(features, np.float32), np.ones(features, np.float32)
    )
    return SitePlan(detector, BenignPair(np.ones(heads, np.float32), np.zeros((heads, 1, width), np.float32)))


def _measure(name: str, llama: Llama) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        (save_random if llama.dtype == TensorProto.FLOAT else save_hollow)(llama, path)
        hotfix_at_every_site(path).save(path.with_suffix(".hotfix"))
        command = [sys.executable, "-m", "models.bench.scale_child", str(path), str(path.with_suffix(".hotfix"))]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            raise click.ClickException(done.stderr[-2000:])
        found = {
            "name": name,
            "parameters": llama.parameters,
            "model_bytes": file_bytes(path),
            **json.loads(done.stdout),
        }
        found["process_seconds"] = round(time.perf_counter() - started, 3)
    click.echo(
        f"{name}: {found['nodes']:,} nodes, {found['sites']} sites, {found['model_bytes'] / 1e9:.2f} GB: "
        f"found in {found['find_seconds']:.2f} s, "
        f"patched in {found['patch_seconds']:.2f} s, {found['peak_bytes'] / 1e6:.0f} MB"
    )
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Seconds over nodes, seconds and memory over bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "scale", "font.size": 9}):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        nodes, seconds, memory = figure.subplots(1, 3)
        many, large = results["nodes"], results["bytes"]
        for field, label in (("patch_seconds", "patch, file to file"), ("find_seconds", "of it the finder")):
            nodes.plot([one["nodes"] for one in many], [one[field] for one in many], "o-", label=label)
        nodes.set(title="Seconds over nodes", xlabel="nodes", ylabel="seconds", xlim=0, ylim=0)
        nodes.legend()
        gigabytes = [one["model_bytes"] / 1e9 for one in large]
        seconds.plot(gigabytes, [one["patch_seconds"] for one in large], "o-")
        seconds.set(title="Seconds over bytes", xlabel="weights, GB", ylabel="seconds", xscale="log", ylim=0)
        memory.plot(gigabytes, [one["peak_bytes"] / 1e6 for one in large], "o-", color="tab:green")
        memory.set(title="Memory over bytes", xlabel="weights, GB", ylabel="peak, MB", xscale="log", ylim=0)
        for axes in (seconds, memory):
            for x, one in zip(gigabytes, large, strict=True):
                y = one["patch_seconds"] if axes is seconds else one["peak_bytes"] / 1e6
                axes.annotate(one["name"], (x, y), textcoords="offset points", xytext=(0, 6), ha="center")
        figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
