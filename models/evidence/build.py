"""Measure everything: `python -m models.evidence.build`. Builds the victims that are not there; needs all extras but
`serve`.

Every step of every case is a file in the cache, so a run that was cut off goes on where it stopped. `--fresh` measures
again. What the evidence file holds of victims and steps that are not in the cache stays in it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from .case import Case
from .collecting import collect
from .measuring import measure
from .plots import draw
from .runner import STEPS
from .settings import SETTINGS
from .table import render

QUICK_ROWS = 400
"""Test samples, and what was made of them, that `--quick` judges."""
RESULTS = Path(__file__).parents[1] / "results"


@click.command()
@click.option(
    "--quick",
    is_flag=True,
    help="One seed of one victim a kind on a part of the test set; without the slow steps, unless named by --steps.",
)
@click.option("--only", metavar="REGEX", default="", help="Settings whose name matches.")
@click.option("--steps", help=f"Steps to do, of {', '.join(STEPS)}; the others are shown where they were done before.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option(
    "--threads",
    type=int,
    default=2,
    show_default=True,
    help="Of onnxruntime while fitting and judging; latencies have one.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes; latencies are measured alone, at the end.",
)
@click.option("--fresh", is_flag=True, help="Measure again what was measured before.")
@click.option("--no-build", is_flag=True, help="Skip settings whose victim is not there.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder of evidence and pictures.",
)
def main(
    quick: bool,
    only: str,
    steps: str | None,
    seeds: str,
    threads: int,
    jobs: int,
    fresh: bool,
    no_build: bool,
    output: Path,
) -> None:
    """Measure hotfixes on the victims; write the evidence file, its pictures, and the page made of them."""
    wanted = [name for name, step in STEPS.items() if not (quick and step.slow)] if steps is None else steps.split(",")
    if unknown := set(wanted) - STEPS.keys():
        raise click.UsageError(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    everything = [
        Case(setting, seed, threads, QUICK_ROWS if quick else None) for setting in SETTINGS for seed in setting.seeds
    ]
    if quick:
        everything = [case for case in everything if case.setting.quick and case.seed == 0]
    cases = [case for case in everything if re.search(only, case.setting.name) and str(case.seed) in seeds.split(",")]
    started = time.perf_counter()
    failed = measure(cases, wanted, jobs=jobs, fresh=fresh, build=not no_build)
    stem = "evidence_quick" if quick else "evidence"
    file = output / f"{stem}.json"
    evidence = collect(everything, quick, threads, json.loads(file.read_text()) if file.is_file() else None)
    output.mkdir(parents=True, exist_ok=True)
    evidence["pictures"] = draw(evidence, output, stem)
    file.write_text(_lines(evidence))
    page = output / "evidence_quick.md" if quick else output.parent / "RESULTS.md"
    page.write_text(render(evidence, "" if quick else f"{output.name}/"))
    click.echo(f"{page.name}: {len(evidence['runs'])} runs, {time.perf_counter() - started:.0f} s this time")
    for line in failed:
        click.echo(f"failed: {line}", err=True)
    sys.exit(bool(failed))


def _lines(evidence: dict[str, Any]) -> str:
    """JSON with one line a run, so that a change shows in a few lines."""
    runs = ",\n".join(json.dumps(run, allow_nan=False) for run in evidence["runs"])
    rest = {name: value for name, value in evidence.items() if name != "runs"}
    head = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in rest.items())
    return f'{{\n{head},\n"runs": [\n{runs}\n]\n}}\n'


if __name__ == "__main__":
    main()
