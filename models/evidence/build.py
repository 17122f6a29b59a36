"""Measure everything: `python -m models.evidence.build`. Builds the victims that are not there; needs all extras but
`serve`.

Every step of every case is a file in the cache, so a run that was cut off goes on where it stopped. `--fresh` measures
again. What the evidence file holds of victims and steps that are not in the cache stays in it. `--group` measures a
part of it, some of which have a page of their own. `--render` only writes the pages.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import click

from .case import Case
from .collecting import asked, collect
from .measuring import measure
from .pages import RESULTS, write_pages
from .parts import PARTS
from .runner import STEPS
from .settings import SEEDS, SETTINGS

QUICK_ROWS = 400
"""Test samples, and what was made of them, that `--quick` judges."""


@click.command()
@click.option(
    "--quick",
    is_flag=True,
    help="One seed of one victim a kind on a part of the test set; without the slow steps, unless named by --steps.",
)
@click.option("--group", type=click.Choice(list(PARTS)), help="Only this part.")
@click.option("--only", metavar="REGEX", default="", help="Settings whose name matches.")
@click.option("--steps", help=f"Steps to do, of {', '.join(STEPS)}; the others are shown where they were done before.")
@click.option("--seeds", default=",".join(map(str, SEEDS)), show_default=True)
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
@click.option(
    "--render", is_flag=True, help="Measure nothing and read no cache: write the pages of the evidence file as it is."
)
@click.option("--no-build", is_flag=True, help="Skip settings whose victim is not there.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder of evidence and pictures.",
)
def main(
    quick: bool,
    group: str | None,
    only: str,
    steps: str | None,
    seeds: str,
    threads: int,
    jobs: int,
    fresh: bool,
    render: bool,
    no_build: bool,
    output: Path,
) -> None:
    """Measure hotfixes on the victims; write the evidence file, its pictures, and the page made of them."""
    part = PARTS[group] if group else None
    if part and part.module:
        part.measure()
        return
    every = [name for name, step in STEPS.items() if part is None or name in part.steps]
    wanted = [name for name in every if not (quick and STEPS[name].slow)] if steps is None else steps.split(",")
    if unknown := set(wanted) - STEPS.keys():
        raise click.UsageError(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    file = output / ("evidence_quick.json" if quick else "evidence.json")
    before = json.loads(file.read_text()) if file.is_file() else None
    if render and before is None:
        raise click.UsageError(f"{file} is not there")
    started, failed = time.perf_counter(), list[str]()
    if render:
        evidence = {**before, **asked()}
    else:
        cases = [Case(setting, seed, threads, QUICK_ROWS if quick else None) for setting in SETTINGS for seed in SEEDS]
        if quick:
            cases = [case for case in cases if case.setting.quick and case.seed == 0]
        some = [case for case in cases if re.search(only, case.setting.name) and str(case.seed) in seeds.split(",")]
        some = [case for case in some if part is None or part.has(case)]
        failed = measure(some, wanted, jobs=jobs, fresh=fresh, build=not no_build)
        evidence = collect(cases, quick, threads, before)
    page = write_pages(evidence, output)
    click.echo(f"{page.name}: {len(evidence['runs'])} runs, {time.perf_counter() - started:.0f} s this time")
    for line in failed:
        click.echo(f"failed: {line}", err=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
