"""Audit graphs with logic that depends on values: `python -m models.evidence.graph_logic.dependent`.

The rules were changed with the first half in sight. What they said then of the second half, which nobody had looked at,
stays in the results as the first look, whatever the rules say today.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import click

from ...writing import save_json
from ..__main__ import RESULTS, figures, judge_clean, judge_planted
from .clean import DEPENDENT_CLEAN
from .planted import DEPENDENT_PLANTED

GROUP = "dependent"
Case = TypeVar("Case")
HALVES = ("first_half", "second_half")


def half(cases: Sequence[Case], name: str) -> tuple[Case, ...]:
    """Two of every four cases: both halves have both exporters and all styles."""
    first = name == HALVES[0]
    return tuple(case for place, case in enumerate(cases) if (place % 4 in (0, 3)) == first)


def judged(name: str) -> dict[str, Any]:
    """Figures and rows of a half."""
    clean, planted = judge_clean(half(DEPENDENT_CLEAN, name)), judge_planted(half(DEPENDENT_PLANTED, name))
    return {"figures": figures(clean, planted), "clean": clean, "planted": planted}


@click.command()
@click.option("--half", "name", type=click.Choice(HALVES), help="One of the two; by default both.")
@click.option("--look", default="today", show_default=True, help="Under what name to keep what is said.")
def main(name: str | None, look: str) -> None:
    """Exits with 1 where a planted graph does not act."""
    said = {one: judged(one) for one in ((name,) if name else HALVES)}
    whole = json.loads(RESULTS.read_text())
    for one, found in said.items():
        whole.setdefault(GROUP, {}).setdefault(one, {})[look] = found
        click.echo(f"{one}: {json.dumps(found['figures'], indent=1)}")
    save_json(RESULTS, whole)
    if not all(row["acts"] for found in said.values() for row in found["planted"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
