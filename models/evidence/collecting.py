"""From step files to the evidence file, the one thing that tables and pictures are made from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..victims import versions
from .case import MOST_CLEAN_FLAGGED, Case, results
from .pages import RESULTS
from .parts import elsewhere
from .runner import STEPS
from .settings import GROUPS, SETTINGS
from .test_sets import overlaps

__all__ = ["asked", "collect"]

FIGURES = ("model", "twin", "cpu_seconds")
"""What is kept of a victim's record."""


def collect(
    cases: Sequence[Case], quick: bool, threads: int, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything measured of some cases, this time or before.

    Args:
        before: an earlier evidence file.
    """
    earlier = {(run["setting"], run["seed"]): run for run in (before or {}).get("runs", ())}
    runs = [run for case in cases if (run := _run(case, earlier.get((case.setting.name, case.seed))))["steps"]]
    return {
        "quick": quick,
        "max_clean_flagged": MOST_CLEAN_FLAGGED,
        "threads": threads,
        "cores": os.cpu_count(),
        "versions": versions(),
        **asked(),
        "test_sets": overlaps((before or {}).get("test_sets", {})),
        "elsewhere": elsewhere(RESULTS),
        "runs": runs,
    }


def asked() -> dict[str, Any]:
    """Groups and settings, which no measurement has a part in."""
    return {
        "groups": {name: asdict(group) for name, group in GROUPS.items()},
        "settings": [asdict(setting) for setting in SETTINGS],
    }


def _run(case: Case, earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the cache has of a case, and what only an earlier evidence file has, as long as both are of one victim and
    one hotfix.
    """
    victim, steps = _cached(case)
    if earlier is not None and (not case.victim.built or _same(victim, earlier["victim"])):
        old = earlier["steps"]
        same_hotfix = "fit" not in steps or _digest(steps) == _digest(old)
        kept = {name: figures for name, figures in old.items() if same_hotfix or not STEPS[name].fitted}
        victim, steps = (victim if case.victim.built else earlier["victim"]), {**kept, **steps}
    return {
        "setting": case.setting.name,
        "seed": case.seed,
        "victim": victim,
        "steps": {name: steps[name] for name in STEPS if name in steps},
    }


def _cached(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of victim and steps; both empty without a victim."""
    if not case.victim.built:
        return {}, {}
    steps = {}
    for name in STEPS:
        file = results() / f"{case.name}-{name}.json"
        if file.is_file():
            kept = json.loads(file.read_text())
            # Left over from another victim or data set.
            if kept["key"].split()[0] == case.digest:
                steps[name] = kept["figures"]
    record = case.victim.record
    return {
        "seed": case.victim.seed,
        "digest": case.digest,
        **{name: record[name] for name in FIGURES if name in record},
    }, steps


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two victims are of one seed, and they and their twins do equally well on every test sample that is
    counted.
    """
    return all(one.get(name) == other.get(name) for name in ("seed", "model", "twin"))


def _digest(steps: Mapping[str, Any]) -> str | None:
    digest: str | None = steps.get("fit", {}).get("hotfix", {}).get("digest")
    return digest
