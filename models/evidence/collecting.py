"""From step files to the evidence file, the one thing that tables and pictures are made from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..victims import versions
from .case import MOST_CLEAN_FLAGGED, Case, results
from .runner import STEPS
from .settings import GROUPS, SETTINGS

__all__ = ["collect"]


def collect(cases: Sequence[Case], quick: bool, threads: int) -> dict[str, Any]:
    """Everything measured of some cases, this time or before."""
    runs = [run for case in cases if (run := _run(case))["steps"]]
    return {
        "quick": quick,
        "max_clean_flagged": MOST_CLEAN_FLAGGED,
        "threads": threads,
        "cores": os.cpu_count(),
        "versions": versions(),
        "groups": {name: asdict(group) for name, group in GROUPS.items()},
        "settings": [asdict(setting) for setting in SETTINGS],
        "runs": runs,
    }


def _run(case: Case) -> dict[str, Any]:
    steps = {}
    for name in STEPS:
        file = results() / f"{case.name}-{name}.json"
        if case.victim.built and file.is_file():
            kept = json.loads(file.read_text())
            # Left over from another victim or data set.
            if kept["key"].split()[0] == case.digest:
                steps[name] = kept["figures"]
    record = case.victim.record if case.victim.built else {}
    victim = {name: record[name] for name in ("model", "twin", "seconds") if name in record}
    return {"setting": case.setting.name, "seed": case.seed, "victim": victim, "steps": steps}
