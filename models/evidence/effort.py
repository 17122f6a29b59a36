"""What the evidence took: minutes of one core, by group of settings and by stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .runner import STEPS

__all__ = ["STAGES", "minutes"]

STAGES = ("victims", *STEPS)


def minutes(evidence: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Group → stage → minutes.

    A victim counts once, however many fits it has, and a clean twin with the first victim that shares it.
    """
    settings = {setting["name"]: setting for setting in evidence["settings"]}
    spent = {name: dict.fromkeys(STAGES, 0.0) for name in evidence["groups"]}
    for run in evidence["runs"]:
        setting = settings[run["setting"]]
        stages = spent[setting["group"]]
        if run["seed"] in setting["trained"]:
            stages["victims"] += run["victim"].get("cpu_seconds", 0.0) / 60
        for name, figures in run["steps"].items():
            stages[name] += figures.get("seconds_taken", 0.0) / 60
    return spent
