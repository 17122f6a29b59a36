"""Fill the table: `python -m models.tools.build`. Needs the extras cpu, export and fit, and tests/third_party.txt."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import click

from ..victims import cache
from .subjects import build_subjects
from .table import render
from .toolbox import TOOLS
from .trial import VARIANTS, try_tools

RESULTS = Path(__file__).parent.parent / "results"


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder for tools.json and TOOLS.md.",
)
@click.option("--only", metavar="TEXT", help="Only tools whose name contains this; nothing is written.")
@click.option(
    "--variant",
    type=click.Choice([*VARIANTS]),
    multiple=True,
    help="Only these forms of the patch; nothing is written.",
)
def main(output: Path, only: str | None, variant: tuple[str, ...]) -> None:
    """Run every tool on every patched graph. Exits with 1 where a portable graph does not survive one."""
    started = time.perf_counter()
    tools = [tool for tool in TOOLS if not only or only in tool.name]
    folder = cache() / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    cells = []
    with tempfile.TemporaryDirectory() as scratch:
        for subject in build_subjects(folder):
            for cell in try_tools(subject, tools, Path(scratch), variant or tuple(VARIANTS)):
                cells.append(cell.to_json())
                found = (
                    f"silent {cell.silent:.2g}, firing {cell.firing:.2g}"
                    if cell.silent is not None
                    else cell.message[:160]
                )
                own = f" (tool {cell.own:.2g})" if cell.own is not None else ""
                own += f" (patch left out {cell.spared:.2g})" if cell.spared is not None else ""
                own += f", {cell.crossed} of {cell.rows} rows crossed, {cell.far} far" if cell.rows else ""
                click.echo(f"{cell.subject}; {cell.form}; {cell.variant}; {cell.tool}: {cell.status}, {found}{own}")
    packages = sorted({tool.package for tool in TOOLS} | {"onnxruntime", "onnx", "numpy"})
    results = {
        "versions": {name: version(name) for name in packages},
        "seconds": round(time.perf_counter() - started, 1),
        "tools": [{"name": tool.name, "package": tool.package, "changes": tool.changes} for tool in TOOLS],
        "cells": cells,
    }
    if not only and not variant:
        (output / "tools.json").write_text(json.dumps(results, indent=1) + "\n")
        (output / "TOOLS.md").write_text(render(results))
    sys.exit(any(cell["variant"] == "portable" and cell["status"] not in ("ok", "no original") for cell in cells))


if __name__ == "__main__":
    main()
