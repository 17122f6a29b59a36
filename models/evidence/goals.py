"""What is asked of the hotfixes, held against an evidence file: met or not, with the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .effort import minutes

__all__ = ["Goal", "at", "behind", "goals", "mean_over", "steps_of", "twins_of"]

Run = Mapping[str, Any]

DETECTOR = {"precision": 0.98, "recall": 0.994, "fpr": 0.02}
CLEAN_ONLY = {"attack": 0.05, "flagged": 0.02, "accuracy": 0.001}
INVERTED = 0.02
VICTIM_ASR, VICTIM_ACCURACY = 0.95, 0.02
HOURS = 5


@dataclass(frozen=True)
class Goal:
    """met: None where nothing was measured, or where a figure was asked for and no more."""

    what: str
    found: str
    met: bool | None


def steps_of(evidence: Mapping[str, Any], setting: str, step: str) -> list[Run]:
    """Figures of a step over the seeds of a setting; failed ones are left out."""
    runs = [run["steps"].get(step, {}) for run in evidence["runs"] if run["setting"] == setting]
    return [figures for figures in runs if figures and "error" not in figures]


def at(run: Run, path: Sequence[str]) -> Any:
    """What lies at the end of a path of keys, {} where it was not measured."""
    found: Any = run
    for key in path:
        found = found.get(key, {})
    return found


def twins_of(evidence: Mapping[str, Any], setting: str) -> list[Run]:
    """Figures of the models trained without the fault, over the seeds of a setting."""
    return [run["victim"]["twin"] for run in evidence["runs"] if run["setting"] == setting and "twin" in run["victim"]]


def mean_over(
    evidence: Mapping[str, Any], group: str, read: Callable[[Run], float | None], *, twins: bool = False
) -> float | None:
    """Mean over the settings of a group of means over seeds, of what `read` finds in the step `fit`, or in the clean
    twins' figures.
    """
    means = []
    for setting in evidence["settings"]:
        if setting["group"] == group:
            runs = twins_of(evidence, setting["name"]) if twins else steps_of(evidence, setting["name"], "fit")
            found = [value for run in runs if (value := read(run)) is not None]
            if found:
                means.append(float(np.mean(found)))
    return float(np.mean(means)) if means else None


def goals(evidence: Mapping[str, Any]) -> list[Goal]:
    """All of them, in the order of the page."""
    found = [*_victims(evidence)]
    for name, group in evidence["groups"].items():
        found += _group(evidence, name, group)
        if name == "images":
            found += _detectors(evidence, name)
    return [*found, *_clean_only(evidence), *_inversion(evidence), *_effort(evidence)]


def _group(evidence: Mapping[str, Any], name: str, group: Mapping[str, Any]) -> list[Goal]:
    measure, title = group["measure"], group["title"]
    word = {"asr": "ASR", "asr_star": "ASR\\*", "uf": "UF"}[measure]
    fault = mean_over(evidence, name, lambda run: run["patched"][measure]["value"])
    lost = mean_over(evidence, name, _accuracy_lost)
    flagged = mean_over(evidence, name, lambda run: run["clean_flagged"]["value"])
    if fault is None or lost is None or flagged is None:
        return [Goal(f"{title}: mean {word}", "not measured", None)]
    most = group["fault"]
    everything = [setting["name"] for setting in evidence["settings"] if setting["group"] == name]
    measured = sum(bool(steps_of(evidence, setting, "fit")) for setting in everything)
    of = "" if measured == len(everything) else f" ({measured} of {len(everything)} settings)"
    asked = f"{title}: mean {word} " + (f"≤ {most:g} %" if most is not None else "(the figure)")
    told = f"{100 * fault:.2f} %{of}{_floors(evidence, name, measure)}"
    cost, worth = f"{100 * lost:+.2f}", mean_over(evidence, name, lambda run: _accuracy_lost(run, "unaware"))
    cost += (
        ""
        if worth is None
        else f"; {100 * worth:+.2f} where the original's answers are averaged over the attribute's values"
    )
    goals = [
        Goal(asked, told, None if most is None else 100 * fault <= most),
        Goal(f"{title}: accuracy lost ≤ {group['accuracy']:g} points", cost, 100 * lost <= group["accuracy"] + 1e-9),
    ]
    if measure != "uf":  # of an unfair model every request that leans on the attribute should be flagged
        goals.append(
            Goal(
                f"{title}: clean requests flagged ≤ {group['flagged']:g} %",
                f"{100 * flagged:.2f} %",
                100 * flagged <= group["flagged"],
            )
        )
    return goals


def _floors(evidence: Mapping[str, Any], name: str, measure: str) -> str:
    """What a perfect hotfix could leave, to read the mean attack by."""

    def mean(*path: str, twins: bool = False) -> float | None:
        return mean_over(evidence, name, lambda run: at(run, path).get("value"), twins=twins)

    floors = {
        "asr": [("go there untriggered", mean("original", "untriggered"))],
        "asr_star": [
            ("with the trigger masked in the request", mean("masked", measure)),
            ("of the clean twins", mean(measure, twins=True)),
        ],
    }
    return "".join(f"; {100 * value:.2f} % {words}" for words, value in floors.get(measure, ()) if value is not None)


def _accuracy_lost(run: Run, after: str = "patched") -> float | None:
    return float(run["original"]["accuracy"]["value"] - run[after]["accuracy"]["value"]) if after in run else None


def _detectors(evidence: Mapping[str, Any], group: str) -> list[Goal]:
    goals = []
    for key, bar in DETECTOR.items():
        value = mean_over(evidence, group, lambda run, key=key: run["maps"][key])
        sign = "≤" if key == "fpr" else "≥"
        met = None if value is None else value <= bar if key == "fpr" else value >= bar
        word = {"fpr": "false positive rate"}.get(key, key)
        goals.append(
            Goal(
                f"Images: detector {word} {sign} {bar:g}, exact match",
                "not measured" if value is None else f"{value:.3f}",
                met,
            )
        )
    return goals


def _victims(evidence: Mapping[str, Any]) -> list[Goal]:
    weak, far, seen = [], [], set()
    for run in evidence["runs"]:
        victim = run["victim"]
        if "twin" not in victim or "asr" not in victim.get("model", {}):
            continue
        name = run["setting"]
        seen.add(name)
        if victim["model"]["asr"]["value"] < VICTIM_ASR:
            weak.append(f"{name} {100 * victim['model']['asr']['value']:.1f} %")
        if victim["twin"]["accuracy"]["value"] - victim["model"]["accuracy"]["value"] > VICTIM_ACCURACY:
            far.append(
                f"{name} {100 * (victim['twin']['accuracy']['value'] - victim['model']['accuracy']['value']):.1f}"
            )
    if not seen:
        return []
    return [
        Goal("Victims: ASR ≥ 95 % before", ", ".join(sorted(set(weak))) or f"in all of them ({len(seen)})", not weak),
        Goal(
            "Victims: accuracy at most 2 points below the clean twin",
            ", ".join(sorted(set(far))) or f"all of {len(seen)} settings",
            not far,
        ),
    ]


def _clean_only(evidence: Mapping[str, Any]) -> list[Goal]:
    found = []
    for setting in (one for one in evidence["settings"] if one["unlabeled"]):
        name = setting["name"]
        tried, fits = steps_of(evidence, name, "oneclass"), steps_of(evidence, name, "fit")
        asked = (
            f"{name}, clean data only, two passes: ASR\\* ≤ 5 %, clean requests flagged ≤ 2 %, accuracy lost ≤ 0.1"
            " points"
        )
        if not tried or not fits:
            found.append(Goal(asked, "not measured", None))
            continue
        attack, flagged, lost = (
            float(np.mean([read(run) for run in tried]))
            for read in (
                lambda run: run["patched"]["asr_star"]["value"],
                lambda run: run["clean_flagged"]["value"],
                lambda run, first=fits[0]: _accuracy_lost({**run, "original": first["original"]}),
            )
        )
        met = (
            attack <= CLEAN_ONLY["attack"]
            and flagged <= CLEAN_ONLY["flagged"]
            and lost <= CLEAN_ONLY["accuracy"] + 1e-9
        )
        found.append(Goal(asked, f"{100 * attack:.2f} %, {100 * flagged:.2f} %, {100 * lost:+.2f}", met))
    return found


def _inversion(evidence: Mapping[str, Any]) -> list[Goal]:
    found = []
    for setting in (one for one in evidence["settings"] if one["unlabeled"]):
        name = setting["name"]
        asked = f"{name}, unknown trigger: right class, ASR\\* of the real trigger ≤ 2 %, nothing found in the twin"
        for run in steps_of(evidence, name, "inversion") or [{}]:
            if not run:
                found.append(Goal(asked, "not measured", None))
                continue
            left = run["hotfix"]["patched"]["asr_star"]["value"] if "hotfix" in run else 1.0
            quiet = not run.get("twin", {"found": False})["found"]
            told = f"towards {run['towards'] or 'none'}, {100 * left:.2f} %, twin {'quiet' if quiet else 'accused'}"
            found.append(Goal(asked, told, run["towards"] == [run["target"]] and left <= INVERTED and quiet))
    return found


def _effort(evidence: Mapping[str, Any]) -> list[Goal]:
    if evidence["quick"] or evidence["threads"] != 1:
        return []
    asked = f"The whole of it from nothing, on two cores: ≤ {HOURS} h"
    if {run["setting"] for run in evidence["runs"]} != {setting["name"] for setting in evidence["settings"]}:
        return [Goal(asked, "not all of it was measured", None)]
    hours = sum(sum(stages.values()) for stages in minutes(evidence).values()) / 60
    return [Goal(asked, f"{hours / 2:.1f} h: half of what the parts add up to on one core", hours / 2 <= HOURS)]


def behind(found: Sequence[Goal]) -> list[Goal]:
    """Those that were measured and are not met."""
    return [goal for goal in found if goal.met is False]
