"""Fill the table: `python -m models.bench.build`. Needs the extras cpu, export, fit and report, and
models/requirements.txt.

Every line is a file in the cache, so a run that was cut off goes on where it stopped; a line is measured again when its
graph, its patch or onnxruntime has changed. `--fresh` measures again in any case.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import click

from ..victims import versions
from .measuring import kept, measure
from .quiet_machine import BUSY
from .rows import ROWS
from .table import misses, render

RESULTS = Path(__file__).parents[1] / "results"


@click.command()
@click.option(
    "--only",
    metavar="TEXT",
    default="",
    help="Only rows whose name or model contains this; the others are shown as they were.",
)
@click.option("--quick", is_flag=True, help="A few pairs a request: does it run? Nothing is written.")
@click.option("--fresh", is_flag=True, help="Measure again what was measured before.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder for bench.json and BENCH.md.",
)
def main(only: str, quick: bool, fresh: bool, output: Path) -> None:
    """Measure every line; write bench.json and BENCH.md."""
    started = time.perf_counter()
    lines = []
    for row in ROWS:
        wanted = only.lower() in row.name.lower() or only in row.model
        for shape in row.shapes:
            head = f"{row.name}, {' × '.join(map(str, shape.values()))}"
            if not wanted:
                line = kept(row, shape, quick)
            else:
                line = measure(
                    row, shape, quick=quick, fresh=fresh, say=lambda text, head=head: _status(f"{head}: {text}")
                )
                _status("")
                click.echo(f"{head}: {_told(line)}")
            if line is not None:
                lines.append(line)
    results = {
        "versions": versions(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "lines": lines,
    }
    for text in misses(lines):
        click.echo(f"over the bound: {text}", err=True)
    if not quick:
        output.mkdir(parents=True, exist_ok=True)
        (output / "bench.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
        scale = output / "scale.json"
        (output / "BENCH.md").write_text(render(results, json.loads(scale.read_text()) if scale.is_file() else None))
    click.echo(f"{len(lines)} lines, {time.perf_counter() - started:.0f} s this time", err=True)


def _told(line: dict[str, Any]) -> str:
    parts = []
    for threads, requests in line["threads"].items():
        ratios = ", ".join(
            f"{name} {told['ratio']['median']:.3f}"
            + (f" (torch {told['torch']['ratio']['median']:.2f})" if "torch" in told else "")
            for name, told in requests.items()
        )
        parts.append(f"{threads} thread(s) {ratios}")
    busy = " [busy machine]" if (line["others"] or 0) > BUSY else ""
    return "; ".join(parts) + f"; {line['seconds']:.0f} s{busy}"


def _status(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[2K{text[:120]}", nl=False, err=True)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
