"""RESULTS.md from an evidence file, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cells import Evidence, Row, Table, each, number_of, p_of, plain_of, ratios_of, share_of
from .defenses import SLACK
from .fairness import FEWEST
from .goals import bounds_of, goals, having
from .manifest import effort, longest, manifest, parts
from .measures import (
    NAMES,
    Run,
    fault_of,
    fits,
    fitted_again,
    map_share,
    mean_over,
    one_by_one,
    steps_of,
    twins_of,
    victims_of,
)
from .other_tables import ablations, best_peers, peers, unlabeled
from .peers.editing import BUDGET
from .verdicts import Judged, Verdict

__all__ = ["render"]

TEMPLATE = Path(__file__).with_name("results.md.j2")
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
        again=fitted_again(evidence),
        bound=f"{100 * evidence['max_clean_flagged']:g}",
        made_with=", ".join(f"{name} {version}" for name, version in evidence["versions"].items()),
        cores=evidence["cores"],
        threads=evidence["threads"],
        goals=Table(("asked", "measured", ""), [(goal.what, goal.found, _bold(goal.verdict)) for goal in found]),
        not_met=having(found, Verdict.NOT_MET),
        not_shown=having(found, Verdict.NOT_SHOWN),
        judged=len(found) - len(having(found, Verdict.NOT_JUDGED)),
        groups=list(_groups(evidence)),
        fairness=_fairness(evidence),
        fewest=FEWEST,
        detectors=_detectors(evidence),
        costs=_costs(evidence),
        effort=effort(evidence),
        parts=parts(evidence),
        longest=f"{longest(evidence):.0f}",
        manifest=manifest(evidence),
        best_peers=best_peers(evidence),
        slack=f"{100 * SLACK:g}",
        budget=f"{100 * BUDGET:g}",
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


def _bold(verdict: Verdict) -> str:
    return verdict if verdict is Verdict.NOT_JUDGED else f"**{verdict}**"


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
                *(_both("trigger masked") if name == "words" else ()),
                *(("accuracy, attribute unknown",) if measures == ("uf",) else ()),
                *(_both("clean twin") if "asr" in measures else ()),
                "clean flagged",
                "hotfix of the first seed",
                "paper",
            )
            yield {
                "title": group["title"],
                "table": Table(head, rows),
                "means": _means(evidence, name, measures),
                "judged": _judged(evidence, name, group),
            }


def _both(title: str) -> Row:
    return tuple(f"{title}, {NAMES[measure]}" for measure in ("asr", "asr_star"))


def _judged(evidence: Evidence, name: str, group: Run) -> Table:
    """Each setting by itself, Holm's method over the settings for every bound."""
    settings, bounds = fits(evidence, name), bounds_of(group)
    found = [one_by_one(settings, bound.measure, bound.most) for bound in bounds]
    rows = [
        (setting, str(len(victims_of(evidence, setting))), *(_verdict(one.get(setting)) for one in found))
        for setting in settings
    ]
    return Table(("setting", "victims", *(bound.asked for bound in bounds)), rows)


def _verdict(found: Judged | None) -> str:
    return "–" if found is None else f"{found.estimate.percent()}, {p_of(found.p)}: {_bold(found.verdict)}"


def _setting(setting: Run, runs: Sequence[Run], measures: Sequence[str], twins: Sequence[Run]) -> Row:
    return (
        setting["name"],
        str(len(runs)),
        share_of(runs, "original", "accuracy"),
        share_of(runs, "patched", "accuracy"),
        share_of(runs, "original", measures[0]),
        *(share_of(runs, "patched", measure) for measure in measures),
        *((share_of(runs, "masked", measure) for measure in measures) if setting["group"] == "words" else ()),
        *((share_of(runs, "unaware", "accuracy"),) if measures == ("uf",) else ()),
        *((share_of(twins, measure) for measure in measures) if "asr" in measures else ()),
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


def _means(evidence: Evidence, name: str, measures: Sequence[str]) -> str:
    told = []
    for key in ("accuracy", *measures):
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
        runs = [run for run in runs if "fairness" in run]
        if runs:
            cells = (
                number_of([run["fairness"][when][key] for run in runs], 3)
                for key in words
                for when in ("original", "patched")
            )
            unfair = (share_of(runs, when, "uf") for when in ("original", "patched"))
            rows.append((name, str(runs[0]["fairness"]["original"]["groups"]), *unfair, *cells))
    names = ("UF, %", *words.values())
    return Table(("setting", "groups", *(f"{word} {when}" for word in names for when in ("before", "after"))), rows)


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
                rows.append((name, f"{kind}: {lacking[0]}", *["–"] * 7))
                continue
            keys = ("precision", "recall", "fpr", "touched")
            cells = (plain_of([share for run in found if (share := map_share(run["maps"], key))]) for key in keys)
            fault = fault_of(found[0]["patched"])
            after = (share_of(found, "patched", measure) for measure in ("accuracy", "asr", fault))
            rows.append((name, kind, *cells, *after))
    head = (
        "setting",
        "kind",
        "precision",
        "recall",
        "false positive rate",
        "any labeled column",
        "accuracy",
        "ASR",
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
