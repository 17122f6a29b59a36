"""RESULTS.md from an evidence file, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cells import NAMES, Evidence, Row, Run, Table, each, number_of, ratios_of, share_of
from .effort import STAGES, minutes
from .fairness import FEWEST
from .goals import behind, goals, mean_over, steps_of, twins_of
from .other_tables import ablations, peers, unlabeled

__all__ = ["render"]

TEMPLATE = Path(__file__).with_name("results.md.j2")
MET = {True: "**met**", False: "**not met**", None: "–"}
PAPER = {
    "images": "accuracy 88.92 → 88.85, ASR 98.83 → 0.46 over nine settings",
    "tables": "accuracy 79.20 → 79.17, UF 9.93 → 0.04 over seven",
}
NOTES = {
    "Accuracy and attack over the threshold": (
        "One patched session, asked at every threshold through its runtime control."
    ),
    "Attention by layer": (
        "Attention to labeled and to other columns on anomalous samples: median, 10th to 90th percentile."
    ),
    "Attention before and after": (
        "A request put right: the original's map, and what the patch makes of it. ▲: flagged columns."
    ),
}


def render(evidence: Evidence, folder: str) -> str:
    """The page.

    Args:
        folder: of the pictures, as the page refers to them, "" or ending in a slash.
    """
    from jinja2 import Environment

    found = goals(evidence)
    names = [setting["name"] for setting in evidence["settings"] if setting["quick"] or not evidence["quick"]]
    measured = {run["setting"] for run in evidence["runs"]}
    template = Environment(trim_blocks=False, keep_trailing_newline=True, autoescape=False).from_string(
        TEMPLATE.read_text()
    )
    page = template.render(
        quick=evidence["quick"],
        bound=f"{100 * evidence['max_clean_flagged']:g}",
        made_with=", ".join(f"{name} {version}" for name, version in evidence["versions"].items()),
        cores=evidence["cores"],
        threads=evidence["threads"],
        goals=Table(("asked", "measured", ""), [(goal.what, goal.found, MET[goal.met]) for goal in found]),
        behind=behind(found),
        judged=sum(goal.met is not None for goal in found),
        groups=list(_groups(evidence)),
        fairness=_fairness(evidence),
        fewest=FEWEST,
        detectors=_detectors(evidence),
        costs=_costs(evidence),
        effort=_effort(evidence),
        peers=[{"title": name, "table": table} for name, table in peers(evidence)],
        ablations=[{"title": name, "table": table} for name, table in ablations(evidence)],
        unlabeled=unlabeled(evidence),
        pictures=[
            {"title": title, "file": file, "note": NOTES[title]} for title, file in evidence.get("pictures", {}).items()
        ],
        folder=folder,
        missing=[name for name in names if name not in measured],
    )
    return page.rstrip() + "\n"


def _groups(evidence: Evidence) -> Iterator[dict[str, Any]]:
    for name, group in evidence["groups"].items():
        measures = ("uf",) if group["measure"] == "uf" else ("asr", "asr_star")
        settings = [setting for setting in evidence["settings"] if setting["group"] == name]
        rows = [
            _setting(setting, runs, measures, twins_of(evidence, setting["name"]))
            for setting in settings
            if (runs := steps_of(evidence, setting["name"], "fit"))
        ]
        if rows:
            first = NAMES[measures[0]]
            after = [f"{NAMES[measure]} after" for measure in measures]
            head = (
                "setting",
                "seeds",
                "accuracy before",
                "after",
                f"{first} before",
                *after,
                *(("trigger masked",) if name == "words" else ()),
                *(("accuracy, attribute unknown",) if measures == ("uf",) else ()),
                *(("clean twin",) if "asr" in measures else ()),
                "clean flagged",
                "hotfix of the first seed",
                "paper",
            )
            yield {
                "title": group["title"],
                "table": Table(head, rows),
                "means": _means(evidence, name, group["measure"]),
            }


def _setting(setting: Run, runs: Sequence[Run], measures: Sequence[str], twins: Sequence[Run]) -> Row:
    return (
        setting["name"],
        str(len(runs)),
        share_of(runs, "original", "accuracy"),
        share_of(runs, "patched", "accuracy"),
        share_of(runs, "original", measures[0]),
        *(share_of(runs, "patched", measure) for measure in measures),
        *((share_of(runs, "masked", "asr_star"),) if setting["group"] == "words" else ()),
        *((share_of(runs, "unaware", "accuracy"),) if measures == ("uf",) else ()),
        *((share_of(twins, "asr_star"),) if "asr" in measures else ()),
        share_of(runs, "clean_flagged"),
        _hotfix(runs[0]["hotfix"]),
        _paper(setting, NAMES[measures[0]]),
    )


def _hotfix(hotfix: Run) -> str:
    passes = "1 pass" if hotfix["passes"] == "one" else f"2 passes ({hotfix['accept']})"
    count = len(hotfix["sites"])
    sites = f"{count} site{'s' * (count > 1)}"
    mend = f"{hotfix['benign_level']:g} × attention, {hotfix['values']} values"
    return f"{hotfix['detector']}, {sites}, {passes}, {'excision' if hotfix.get('mend') == 'excise' else mend}"


def _paper(setting: Run, fault: str) -> str:
    paper = setting["paper"]
    if paper is None:
        return "–"
    accuracy = f"{paper['accuracy']:.2f} → {paper['accuracy_after']:.2f}"
    return f"{accuracy}, {fault} {paper['fault']:.2f} → {paper['fault_after']:.2f} ({setting['near']})"


def _means(evidence: Evidence, name: str, measure: str) -> str:
    told = []
    for key in ("accuracy", measure):
        before, after = (
            mean_over(evidence, name, lambda run, key=key, when=when: run[when][key]["value"])
            for when in ("original", "patched")
        )
        if before is not None and after is not None:
            told.append(f"{NAMES.get(key, key)} {100 * before:.2f} → {100 * after:.2f}")
    return f"Mean of the settings: {', '.join(told)}." + (f" The paper's: {PAPER[name]}." if name in PAPER else "")


def _fairness(evidence: Evidence) -> Table:
    words = {"spd": "SPD", "average_odds": "average odds", "equal_opportunity": "equal opportunity"}
    rows = []
    for name, runs in each(evidence, "fit"):
        runs = [run["fairness"] for run in runs if "fairness" in run]
        if runs:
            cells = (
                number_of([run[when][key] for run in runs], 3) for key in words for when in ("original", "patched")
            )
            rows.append((name, str(runs[0]["original"]["groups"]), *cells))
    return Table(
        ("setting", "groups", *(f"{word} {when}" for word in words.values() for when in ("before", "after"))), rows
    )


def _detectors(evidence: Evidence) -> Table:
    rows = []
    for name, runs in each(evidence, "fit"):
        kinds = {runs[0]["hotfix"]["detector"]: runs}
        for run in steps_of(evidence, name, "kinds"):
            for kind, figures in run.items():
                if isinstance(figures, Mapping):
                    kinds.setdefault(kind, []).append(figures)
        for kind, found in kinds.items():
            if lacking := [run["skipped"] for run in found if "skipped" in run]:
                rows.append((name, f"{kind}: {lacking[0]}", *["–"] * 6))
                continue
            keys = ("precision", "recall", "fpr", "touched")
            cells = (number_of([run["maps"][key] for run in found if run["maps"][key] is not None], 3) for key in keys)
            fault = "uf" if "uf" in found[0]["patched"] else "asr_star"
            rows.append((name, kind, *cells, share_of(found, "patched", "accuracy"), share_of(found, "patched", fault)))
    head = (
        "setting",
        "kind",
        "precision",
        "recall",
        "false positive rate",
        "any labeled column",
        "accuracy",
        "ASR\\* or UF",
    )
    return Table(head, rows)


def _costs(evidence: Evidence) -> Table:
    rows = []
    for name, timed in each(evidence, "latency"):
        fits = steps_of(evidence, name, "fit")
        seconds = (
            number_of([run["seconds"][key] for run in fits], 1) for key in ("capture", "training", "tuning", "total")
        )
        own = [run[kind]["original_ms"] for run in timed for kind in ("clean", "flagged") if kind in run]
        ratios = (ratios_of([run[kind] for run in timed if kind in run]) for kind in ("clean", "flagged"))
        rows.append((name, *seconds, f"{np.median(own):.2f}" if own else "–", *ratios))
    return Table(
        (
            "setting",
            "capture, s",
            "training, s",
            "tuning, s",
            "whole fit, s",
            "original, ms",
            "clean request ×",
            "flagged request ×",
        ),
        rows,
    )


def _effort(evidence: Evidence) -> Table:
    spent = [(evidence["groups"][name]["title"], stages) for name, stages in minutes(evidence).items()]
    spent.append(("all", {stage: sum(stages[stage] for _, stages in spent) for stage in STAGES}))
    rows = [
        (title, *(f"{value:.0f}" for value in stages.values()), f"{sum(stages.values()):.0f}")
        for title, stages in spent
    ]
    return Table(("settings", *STAGES, "together"), rows)
