"""RESULTS.md from an evidence file, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .effort import STAGES, minutes
from .estimates import Estimate, of_numbers, of_shares
from .fairness import FEWEST
from .goals import at, behind, goals, mean_over, steps_of, twins_of

__all__ = ["Table", "render"]

Run = Mapping[str, Any]
Evidence = Mapping[str, Any]
Row = tuple[str, ...]

TEMPLATE = Path(__file__).with_name("results.md.j2")
MET = {True: "**met**", False: "**not met**", None: "–"}
NAMES = {"asr": "ASR", "asr_star": "ASR\\*", "uf": "UF"}
PEERS = {"strip": "STRIP, N = 5", "dan": "DAN", "fine_pruning": "Fine-Pruning", "head_mask": "static head mask"}
PAPER = {
    "images": "accuracy 88.92 → 88.85, ASR 98.83 → 0.46 over nine settings",
    "tables": "accuracy 79.20 → 79.17, UF 9.93 → 0.04 over seven",
}
NOTES = {
    "Accuracy and attack over the threshold": (
        "One patched session, asked at every threshold through its runtime control."
    ),
    "Attention by layer": (
        "Attention to labelled and to other columns on anomalous samples: median, 10th to 90th percentile."
    ),
    "Attention before and after": (
        "A request put right: the original's map, and what the patch makes of it. ▲: flagged columns."
    ),
}


@dataclass(frozen=True)
class Table:
    """Cells as text."""

    head: Sequence[str]
    rows: Sequence[Row]


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
        peers=[{"title": name, "table": table} for name, table in _peers(evidence)],
        ablations=[{"title": name, "table": table} for name, table in _ablations(evidence)],
        unlabelled=_unlabelled(evidence),
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
        _share(runs, "original", "accuracy"),
        _share(runs, "patched", "accuracy"),
        _share(runs, "original", measures[0]),
        *(_share(runs, "patched", measure) for measure in measures),
        *((_share(runs, "masked", "asr_star"),) if setting["group"] == "words" else ()),
        *((_share(runs, "unaware", "accuracy"),) if measures == ("uf",) else ()),
        *((_share(twins, "asr_star"),) if "asr" in measures else ()),
        _share(runs, "clean_flagged"),
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
    for name, runs in _each(evidence, "fit"):
        runs = [run["fairness"] for run in runs if "fairness" in run]
        if runs:
            cells = (_number([run[when][key] for run in runs], 3) for key in words for when in ("original", "patched"))
            rows.append((name, str(runs[0]["original"]["groups"]), *cells))
    return Table(
        ("setting", "groups", *(f"{word} {when}" for word in words.values() for when in ("before", "after"))), rows
    )


def _detectors(evidence: Evidence) -> Table:
    rows = []
    for name, runs in _each(evidence, "fit"):
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
            cells = (_number([run["maps"][key] for run in found if run["maps"][key] is not None], 3) for key in keys)
            fault = "uf" if "uf" in found[0]["patched"] else "asr_star"
            rows.append((name, kind, *cells, _share(found, "patched", "accuracy"), _share(found, "patched", fault)))
    head = (
        "setting",
        "kind",
        "precision",
        "recall",
        "false positive rate",
        "any labelled column",
        "accuracy",
        "ASR\\* or UF",
    )
    return Table(head, rows)


def _costs(evidence: Evidence) -> Table:
    rows = []
    for name, timed in _each(evidence, "latency"):
        fits = steps_of(evidence, name, "fit")
        seconds = (
            _number([run["seconds"][key] for run in fits], 1) for key in ("capture", "training", "tuning", "total")
        )
        own = [run[kind]["original_ms"] for run in timed for kind in ("clean", "flagged") if kind in run]
        ratios = (_ratios([run[kind] for run in timed if kind in run]) for kind in ("clean", "flagged"))
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


def _ratios(found: Sequence[Run]) -> str:
    """Of several seeds the median, and the widest interval."""
    if not found:
        return "–"
    middle = float(np.median([one["ratio"] for one in found]))
    return f"{middle:.3f} ({min(one['low'] for one in found):.3f} to {max(one['high'] for one in found):.3f})"


def _peers(evidence: Evidence) -> Iterator[tuple[str, Table]]:
    for name, measured in _each(evidence, "peers"):
        fits, timed = steps_of(evidence, name, "fit")[:1], steps_of(evidence, name, "latency")[:1]
        fault = "uf" if "uf" in fits[0]["patched"] else "asr_star"
        own = " / ".join(
            f"{timed[0][kind]['ratio']:.2f}" for kind in ("clean", "flagged") if timed and kind in timed[0]
        )
        rows: list[Row] = [
            ("original", _share(fits, "original", "accuracy"), _share(fits, "original", fault), "–", "1"),
            ("**hotfix**", _share(fits, "patched", "accuracy"), _share(fits, "patched", fault), "–", own or "–"),
        ]
        for peer, title in PEERS.items():
            if peer in measured[0]:
                rows += _peer(title, measured[0][peer], fault)
        yield name, Table(("defence", "accuracy", NAMES[fault], "clean requests refused", "cost ×"), rows)


def _peer(title: str, figures: Run, fault: str) -> Iterator[Row]:
    cost = f"{figures['latency']['ratio']:.2f}" if "latency" in figures else "1"
    for rate, found in figures.get("rates", {}).items():
        cells = (_share([found], key) for key in ("accuracy", fault, "clean_flagged"))
        yield (f"{title}, bar at {100 * float(rate):g} %", *cells, cost)
    if "pruned" in figures:
        cut = f"{title}, {100 * figures['share']:.0f} % of neurons cut"
        yield (cut, _share([figures["pruned"]], "accuracy"), _share([figures["pruned"]], fault), "–", "1")
        title = f"{cut}, then tuned"
    if "accuracy" in figures:
        yield (title, _share([figures], "accuracy"), _share([figures], fault), "–", cost)
    elif "skipped" in figures:
        yield (f"{title}: {figures['skipped']}", "–", "–", "–", "–")


def _ablations(evidence: Evidence) -> Iterator[tuple[str, Table]]:
    for name, runs in _each(evidence, "ablations"):
        tried = {word: found for word, found in runs[0].items() if isinstance(found, Mapping)}
        fault = "uf" if any("uf" in found.get("patched", {}) for found in tried.values()) else "asr_star"
        rows: list[Row] = []
        for word, found in tried.items():
            if "skipped" in found:
                rows.append((f"{word}: {found['skipped']}", "–", "–", "–", "–"))
                continue
            cells = (_share([found["patched"]], key) for key in ("accuracy", fault, "clean_changed"))
            rows.append((word, *cells, _share([found], "clean_flagged")))
        yield name, Table(("ablation", "accuracy", NAMES[fault], "clean predictions changed", "clean flagged"), rows)


def _unlabelled(evidence: Evidence) -> Table:
    rows = []

    def add(name: str, known: str, found: Sequence[Run]) -> None:
        found = [one for one in found if "patched" in one]
        if found:
            cells = (
                _share(found, *path)
                for path in (
                    ("patched", "accuracy"),
                    ("patched", "asr_star"),
                    ("clean_flagged",),
                    ("attacked_flagged",),
                )
            )
            rows.append((name, known, str(len(found)), *cells))

    for name, runs in _each(evidence, "statistic"):
        for passes in ("one", "two"):
            add(name, f"no data (statistic), {passes} pass{'es' * (passes == 'two')}", [run[passes] for run in runs])
    for name, runs in _each(evidence, "oneclass"):
        add(name, "clean data only (oneclass), two passes", runs)
    for name, runs in _each(evidence, "inversion"):
        run = runs[0]
        named = ", ".join(map(str, run["towards"])) or "none"
        add(
            name,
            f"inverted trigger: class {named}, really {run['target']}; {run['seconds']:.0f} s",
            [run.get("hotfix", {})],
        )
    return Table(
        ("setting", "known", "seeds", "accuracy", NAMES["asr_star"], "clean flagged", "triggered flagged"), rows
    )


def _each(evidence: Evidence, step: str) -> Iterator[tuple[str, list[Run]]]:
    """Settings in which a step was done, as well as the step `fit`."""
    for setting in evidence["settings"]:
        name = setting["name"]
        if (runs := steps_of(evidence, name, step)) and steps_of(evidence, name, "fit"):
            yield name, runs


def _share(runs: Sequence[Run], *path: str) -> str:
    """A share over runs, or over one run with its own interval."""
    found = [share for run in runs if (share := at(run, path)).get("value") is not None]
    if not found:
        return "–"
    if "draws" in found[0]:
        return Estimate(found[0]["value"], found[0]["low"], found[0]["high"], 1).percent()
    estimate = of_shares(found)
    return "–" if estimate is None else estimate.percent()


def _number(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    return of_numbers(values).plain(digits) if len(values) > 1 else f"{values[0]:.{digits}f}"
