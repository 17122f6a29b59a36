"""Fill the table: `python -m models.exports.build`. Needs the extras cpu and export."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import click
import torch

from .families import ROWS
from .table import render, unexplained
from .trial import WAYS, try_export

RESULTS = Path(__file__).parent.parent / "results"
PACKAGES = ("torch", "transformers", "onnxscript", "onnx", "onnxruntime", "numpy")


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder for exports.json and EXPORTS.md.",
)
@click.option("--only", metavar="TEXT", help="Only rows whose name contains this; nothing is written.")
def main(output: Path, only: str | None) -> None:
    """Export every row every way. Exits with 1 when a hole is not explained, or an explained one has closed."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            if only and only not in row.name:
                continue
            for way in WAYS:
                cell = try_export(row, way, Path(folder))
                cells.append(cell)
                sites = "" if cell.sites is None else f"{cell.sites}/{cell.expected} sites, {cell.difference}"
                click.echo(f"{cell.row}; {cell.way}: {cell.status} {sites} {cell.seconds} s {cell.message[:120]}")
    results = {
        "versions": {name: version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 1),
        "cells": [cell.to_json() for cell in cells],
    }
    if not only:
        output.mkdir(parents=True, exist_ok=True)
        (output / "exports.json").write_text(json.dumps(results, indent=1) + "\n")
        (output / "EXPORTS.md").write_text(render(results))
    faults = unexplained(cells)
    for fault in faults:
        click.echo(fault, err=True)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
