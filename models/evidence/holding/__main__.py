"""`python -m models.evidence.holding [--only ROW ...]`: measure rows, write them and the page about them.

Needs the victims of `models.text.build` and `models.images.build`. A row that is measured stays; a run that was cut off
goes on. One thread fits and judges at a time.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from typing import Any

import click

from ...victims import versions
from ..commands import Refused
from ..writing import save_json
from .page import RESULTS, write_pages
from .rows import ROWS, Row

SEEDS = (0, 1, 2)


@click.command()
@click.option("--only", "names", multiple=True, type=click.Choice(list(ROWS)), help="May be given more than once.")
@click.option("--seed", "seeds", multiple=True, type=int, default=SEEDS, show_default=True, help="Of the fits.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--again", is_flag=True, help="Measure what is there once more, with the hotfixes that are there.")
@click.option("--dev", is_flag=True, help="Judge on other rows than the fresh ones, and only print.")
def main(names: tuple[str, ...], seeds: tuple[int, ...], threads: int, again: bool, dev: bool) -> None:
    """Measure ROWs, all without --only."""
    for name in names or ROWS:
        row = ROWS[name]
        kept = {} if again or dev else {run["seed"]: run for run in _kept(name)}
        for seed in seeds if row.seeded else seeds[:1]:
            if seed not in kept:
                try:
                    kept[seed] = _measure(row, seed, threads, dev)
                except (Exception, Refused):  # one row that fails leaves the others their turn
                    click.echo(f"{name}, seed {seed}: {traceback.format_exc()}", err=True)
                    continue
                if not dev:
                    _write(name, row, [kept[one] for one in sorted(kept)])
            click.echo(f"{name}, seed {seed}: {json.dumps(_short(kept[seed]['figures']))}")
    if not dev:
        write_pages()


def _measure(row: Row, seed: int, threads: int, dev: bool) -> dict[str, Any]:
    case = row.case(row.victim, seed, threads, dev)
    started = time.perf_counter()
    figures = row.run(case)
    seconds = round(time.perf_counter() - started, 1)
    return {"seed": seed, "figures": figures, "commands": case.commands.called, "seconds": seconds}


def _kept(name: str) -> list[dict[str, Any]]:
    file = RESULTS / f"{name}.json"
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.is_file() else []
    return runs


def _write(name: str, row: Row, runs: list[dict[str, Any]]) -> None:
    whole = {
        "row": name,
        "title": row.title,
        "victim": row.victim,
        "versions": versions(),
        "cores": os.cpu_count(),
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    save_json(RESULTS / f"{name}.json", whole)


def _short(figures: Any) -> Any:
    """Shares as numbers, for the terminal."""
    if not isinstance(figures, dict):
        return figures
    if "value" in figures:
        return figures["value"] if figures["value"] is None else round(figures["value"], 4)
    return {key: _short(value) for key, value in figures.items() if key not in ("versions", "sites")}


if __name__ == "__main__":
    main()
