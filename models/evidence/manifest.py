"""Tables of what the evidence took and what it is of: minutes, and digests of victims and hotfixes."""

from __future__ import annotations

from .cells import Evidence, Table
from .effort import STAGES, minutes
from .measures import victims_of
from .parts import PARTS, minutes_of

__all__ = ["effort", "longest", "manifest", "parts"]


def longest(evidence: Evidence) -> float:
    """Minutes of the longest step."""
    taken = [step.get("seconds_taken", 0.0) for run in evidence["runs"] for step in run["steps"].values()]
    return max(taken, default=0.0) / 60


def effort(evidence: Evidence) -> Table:
    """Minutes of one core by group of settings and stage."""
    spent = [(evidence["groups"][name]["title"], stages) for name, stages in minutes(evidence).items()]
    spent.append(("all", {stage: sum(stages[stage] for _, stages in spent) for stage in STAGES}))
    rows = [
        (title, *(f"{value:.0f}" for value in stages.values()), f"{sum(stages.values()):.0f}")
        for title, stages in spent
    ]
    return Table(("settings", *STAGES, "together"), rows)


def parts(evidence: Evidence) -> Table:
    """The same by part of the evidence, with what has results of its own."""
    found = minutes_of(evidence)
    rows = [(name, PARTS[name].title, "not kept" if took is None else f"{took:.0f}") for name, took in found.items()]
    rows.append(("all", "", f"{sum(took or 0 for took in found.values()):.0f}"))
    return Table(("part", "what", "minutes"), rows)


def manifest(evidence: Evidence) -> Table:
    """A line a victim: its digest, and those of the hotfixes fitted on it."""
    rows = []
    for setting in evidence["settings"]:
        for seed, victim in victims_of(evidence, setting["name"]).items():
            fitted = [
                run["steps"]["fit"]["hotfix"]["digest"][:16]
                for run in evidence["runs"]
                if run["setting"] == setting["name"] and run["victim"]["seed"] == seed and "fit" in run["steps"]
            ]
            rows.append((setting["name"], str(seed), victim.get("digest", "not kept"), ", ".join(fitted)))
    return Table(("setting", "seed of the victim", "victim and data", "hotfixes"), rows)
