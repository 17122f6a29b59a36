"""What the evidence took: minutes of one core, by group of settings and by stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .measures import victims_of
from .runner import STEPS

__all__ = ["STAGES", "minutes"]

STAGES = ("victims", *STEPS)


def minutes(evidence: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Group → stage → minutes.

    A victim counts once, however many fits it has, and a clean twin with the first victim that shares it.
    """
    settings = {setting["name"]: setting for setting in evidence["settings"]}
    spent = {name: dict.fromkeys(STAGES, 0.0) for name in evidence["groups"]}
    for name, setting in settings.items():
        for victim in victims_of(evidence, name).values():
            spent[setting["group"]]["victims"] += victim.get("cpu_seconds", 0.0) / 60
    for run in evidence["runs"]:
        stages = spent[settings[run["setting"]]["group"]]
        for name, figures in run["steps"].items():
            stages[name] += figures.get("seconds_taken", 0.0) / 60
    return spent
