"""All steps of all cases: the victim first if it is not there, several processes side by side where asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import import_module
from itertools import groupby
from multiprocessing import get_context
from typing import Any

import click

from .case import Case
from .runner import STEPS, run_step
from .settings import Setting

__all__ = ["measure"]

BUILDERS = {"image": "models.images.build", "text": "models.text.build", "table": "models.tables.build"}


def measure(
    cases: Sequence[Case], wanted: Sequence[str], *, jobs: int = 1, fresh: bool = False, build: bool = True
) -> list[str]:
    """Do the steps that are wanted and not done yet; returns what failed, a line each.

    Args:
        jobs: processes. Steps that compare times come last, one after the other.
        fresh: measure again what was measured before.
        build: victims that are not there; else their cases are skipped.
    """
    timed = [name for name in wanted if STEPS[name].timed]
    others = [name for name in wanted if name not in timed]
    failed: list[str] = []
    # A clean twin is trained once for all victims that share it, so those stay together.
    shares = [list(share) for _, share in groupby(sorted(cases, key=_family), _family)]
    shares.sort(key=len, reverse=True)
    if jobs == 1:
        failed += [line for share in shares for line in _share(share, others, fresh, build)]
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            started = [pool.submit(_share, share, others, fresh, build) for share in shares]
            failed += [line for one in started for line in one.result()]
    return failed + _share([case for case in cases if case.victim.built], timed, fresh, build=False)


def _family(case: Case) -> tuple[str, int]:
    return case.setting.name.rpartition("-")[0], case.victim.seed


def _share(cases: Sequence[Case], wanted: Sequence[str], fresh: bool, build: bool) -> list[str]:
    # A case keeps what it has read, and a model is a hundred megabytes: each is looked at through one that is dropped
    # again.
    return [line for case in cases for line in _measure(replace(case), wanted, fresh=fresh, build=build)]


def _measure(case: Case, wanted: Sequence[str], *, fresh: bool, build: bool) -> list[str]:
    """All steps wanted of one case; returns what failed."""
    failed: list[str] = []

    def say(text: str) -> None:
        click.echo(f"{case.name} {text}", err=True)

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
    told += [
        f"{name} ×{figures[name]['ratio']:.3f}" for name in ("clean", "flagged") if "ratio" in figures.get(name, {})
    ]
    return "; ".join([*told, f"{figures['seconds_taken']:.0f} s"])


def _percent(shares: dict[str, Any]) -> str:
    keys: Sequence[str] = [key for key in ("accuracy", "asr", "asr_star", "uf") if key in shares]
    return ", ".join(f"{key} {100 * shares[key]['value']:.2f}" for key in keys)
