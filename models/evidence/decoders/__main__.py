"""`python -m models.evidence.decoders [--only ROW ...]`: measure rows, write them and the page about them.

Needs the victims of `models.decoders.build` and SST-2 in ATPATCH_DATA. What is measured stays; a run that was cut off
goes on.
"""

from __future__ import annotations

import os
import time
from typing import Any

import click
import torch

from ...victims import versions
from ..writing import save_json
from .page import RESULTS, write_page
from .rows import ROWS


@click.command()
@click.option("--only", "names", multiple=True, type=click.Choice(list(ROWS)), help="May be given more than once.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of victims, prompts and detectors.")
def main(names: tuple[str, ...], seed: int) -> None:
    """Measure ROWs, all without --only; those without --only that are there stay."""
    torch.set_num_threads(1)
    for name in names or ROWS:
        file = RESULTS / f"{name}.json"
        if file.is_file() and not names:
            continue
        started = time.perf_counter()
        figures = ROWS[name].run(seed)
        whole: dict[str, Any] = {
            "row": name,
            "title": ROWS[name].title,
            "seed": seed,
            "versions": versions(),
            "cores": os.cpu_count(),
            "seconds": round(time.perf_counter() - started, 1),
            "figures": figures,
        }
        RESULTS.mkdir(exist_ok=True)
        save_json(file, whole)
        click.echo(f"{name}: {whole['seconds']} s")
    write_page()


if __name__ == "__main__":
    main()
