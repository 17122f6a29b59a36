"""Measure everything: `python -m models.evidence.build`. Builds the victims that are not there; needs all extras but `serve`.

Every step of every case is a file in the cache, so a run that was cut off goes on where it stopped. `--fresh` measures again.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from .case import Case
from .collecting import collect
from .plots import draw
from .runner import STEPS, run_step
from .settings import SETTINGS, Setting
from .table import render

RESULTS = Path(__file__).parents[1] / "results"
BUILDERS = {"image": "models.images.build", "text": "models.text.build", "table": "models.tables.build"}


@click.command()
@click.option("--quick", is_flag=True, help="The first seed of one victim a kind; without the slow steps, unless --steps names them.")
@click.option("--only", metavar="REGEX", default="", help="Settings whose name matches.")
@click.option("--steps", help=f"Steps to do, of {', '.join(STEPS)}; the others are shown where they were done before.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--threads", type=int, default=2, show_default=True, help="Of onnxruntime while fitting and judging; latencies have one.")
@click.option("--fresh", is_flag=True, help="Measure again what was measured before.")
@click.option("--no-build", is_flag=True, help="Skip settings whose victim is not there.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Folder of evidence and pictures.")
def main(quick: bool, only: str, steps: str | None, seeds: str, threads: int, fresh: bool, no_build: bool, output: Path) -> None:
    """Measure hotfixes on the victims; write the evidence file, its pictures, and the page made of them."""
    wanted = [name for name, step in STEPS.items() if not (quick and step.slow)] if steps is None else steps.split(",")
    if unknown := set(wanted) - STEPS.keys():
        raise click.UsageError(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    everything = [Case(setting, seed, threads) for setting in SETTINGS for seed in setting.seeds]
    if quick:
        everything = [case for case in everything if case.setting.quick and case.seed == 0]
    cases = [case for case in everything if re.search(only, case.setting.name) and str(case.seed) in seeds.split(",")]
    started, failed = time.perf_counter(), []
    for number, case in enumerate(cases, 1):
        # A case keeps what it has read, and a model is a hundred megabytes: each is looked at through one that is dropped again.
        failed += _measure(replace(case), wanted, f"[{number}/{len(cases)}] {case.name}", fresh=fresh, build=not no_build)
    evidence = collect(everything, quick, threads)
    stem = "evidence_quick" if quick else "evidence"
    output.mkdir(parents=True, exist_ok=True)
    evidence["pictures"] = draw(evidence, output, stem)
    (output / f"{stem}.json").write_text(_lines(evidence))
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


def _measure(case: Case, wanted: Sequence[str], head: str, *, fresh: bool, build: bool) -> list[str]:
    """All steps wanted of one case; returns what failed."""
    failed: list[str] = []

    def say(text: str) -> None:
        click.echo(f"{head} {text}", err=True)

    if not _ready(case, say, build):
        return failed
    for name in [name for name, step in STEPS.items() if name in wanted and step.applies(case)]:
        if STEPS[name].fitted and not case.hotfix_file().is_file():
            say(f"{name}: skipped, there is no hotfix yet")
            continue
        figures = run_step(case, name, lambda text, name=name: say(f"{name}: {text}"), fresh=fresh)
        if "error" in figures:
            failed.append(f"{case.name} {name}: {figures['error']}")
        click.echo(f"{case.name:24} {name:11} {_line(figures)}")
    return failed


def _ready(case: Case, say: Callable[[str], None], build: bool) -> bool:
    """Whether the victim is there, after building it if need be."""
    if not case.victim.built and build:
        say("building the victim")
        _build(case.setting, case.victim.seed, say)
    if not case.victim.built:
        click.echo(f"{case.name}: skipped, its victim or the data for it are not there")
        return False
    return True


def _build(setting: Setting, seed: int, say: Callable[[str], None]) -> None:
    """Run the victim's build command; data that are not there are no reason to stop."""
    command = import_module(BUILDERS[setting.kind]).main
    try:
        command.main([setting.name, "--seed", str(seed)], standalone_mode=False)
    except (FileNotFoundError, click.ClickException) as error:
        say(str(error))


def _line(figures: dict[str, Any]) -> str:
    """One row as it lands: the step's first figures."""
    if "error" in figures:
        return figures["error"]
    told = [f"{name} {_percent(figures[name])}" for name in ("original", "patched") if name in figures]
    told += [f"{name} ×{figures[name]['ratio']:.3f}" for name in ("clean", "flagged") if "ratio" in figures.get(name, {})]
    return "; ".join([*told, f"{figures['seconds_taken']:.0f} s"])


def _percent(shares: dict[str, Any]) -> str:
    keys: Sequence[str] = [key for key in ("accuracy", "asr", "asr_star", "uf") if key in shares]
    return ", ".join(f"{key} {100 * shares[key]['value']:.2f}" for key in keys)


if __name__ == "__main__":
    main()
