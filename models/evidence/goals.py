"""What is asked of the hotfixes, held against an evidence file: met, not met or not shown, with the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .effort import minutes
from .estimates import Estimate, of_the_same
from .measures import (
    FLAGGED,
    LOST,
    NAMES,
    Measure,
    Run,
    at,
    fits,
    left,
    map_share,
    mean_of,
    mean_over,
    one_by_one,
    only,
    victims_of,
)
from .verdicts import Judged, Verdict, joint, judged, known

__all__ = ["Bound", "Goal", "bounds_of", "goals", "having"]

DETECTOR = {"precision": 0.98, "recall": 0.994, "fpr": 0.02}
CLEAN_ONLY = {"attack": 0.05, "flagged": 0.02, "accuracy": 0.001}
INVERTED = 0.02
VICTIM_ASR, VICTIM_ACCURACY = 0.95, 0.02
HOURS = 6


@dataclass(frozen=True)
class Goal:
    """One line of the page.

    Attributes:
        found: the figure with its interval, as text.
        verdict: not judged where nothing was measured, or where a figure was asked for and no more.
        estimate: the figure that was judged; None where chance has no part in it, or where several were judged.
    """

    what: str
    found: str
    verdict: Verdict
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Bound:
    """What a setting of a group is asked, by itself.

    Attributes:
        most: a share.
    """

    name: str
    measure: Measure
    most: float

    @property
    def asked(self) -> str:
        unit = "points" if self.measure is LOST else "%"
        return f"{self.name} ≤ {100 * self.most:g} {unit}"


def goals(evidence: Run) -> list[Goal]:
    """All of them, in the order of the page."""
    found = [*_victims(evidence)]
    for name, group in evidence["groups"].items():
        found += _group(evidence, name, group)
        if name == "images":
            found += _detectors(evidence, name)
    return [*found, *_clean_only(evidence), *_inversion(evidence), *_effort(evidence)]


def having(found: Sequence[Goal], verdict: Verdict) -> list[Goal]:
    """Those with one verdict."""
    return [goal for goal in found if goal.verdict is verdict]


def bounds_of(group: Mapping[str, Any]) -> list[Bound]:
    """What each setting of a group is judged by."""
    fault, bounds = group["measure"], []
    if group["each"] is not None:
        bounds.append(Bound(NAMES[fault], left(fault), group["each"] / 100))
    bounds.append(Bound("accuracy lost", LOST, group["accuracy"] / 100))
    if fault != "uf":  # of an unfair model every request that leans on the attribute should be flagged
        bounds.append(Bound("clean requests flagged", FLAGGED, group["flagged"] / 100))
    return bounds


def _group(evidence: Run, name: str, group: Mapping[str, Any]) -> Iterator[Goal]:
    measure, title, settings = group["measure"], group["title"], fits(evidence, name)
    fault = mean_of(settings, left(measure))
    if fault is None:
        yield Goal(f"{title}: mean {NAMES[measure]}", "not measured", Verdict.NOT_JUDGED)
        return
    everything = sum(setting["group"] == name for setting in evidence["settings"])
    of = "" if len(settings) == everything else f" ({len(settings)} of {everything} settings)"
    told = f"{fault.percent()} %{of}{_floors(evidence, name, measure)}"
    if group["fault"] is None:
        yield Goal(f"{title}: mean {NAMES[measure]} (the figure)", told, Verdict.NOT_JUDGED)
    else:
        verdict = judged(fault, group["fault"] / 100)
        yield Goal(f"{title}: mean {NAMES[measure]} ≤ {group['fault']:g} %", told, verdict, fault)
    for bound in bounds_of(group):
        if bound.measure not in (LOST, FLAGGED):
            yield _each(f"{title}: {bound.asked} in each setting", one_by_one(settings, bound.measure, bound.most))
            continue
        found = mean_of(settings, bound.measure)
        if found is None:
            continue
        cell = f"{found.percent()}{' %' if bound.measure is FLAGGED else _worth(evidence, name)}"
        yield Goal(f"{title}: mean {bound.asked}", cell, judged(found, bound.most), found)


def _each(what: str, found: Mapping[str, Judged]) -> Goal:
    """Of settings that are judged one by one."""
    count = Counter(one.verdict for one in found.values())
    named = [f"{verdict} in {count[verdict]} of {len(found)}" for verdict in Verdict if count[verdict]]
    return Goal(what, ", ".join(named), joint(count))


def _floors(evidence: Run, name: str, measure: str) -> str:
    """What a perfect hotfix could leave, to read the mean attack by, and ASR next to ASR*."""

    def mean(*path: str, twins: bool = False) -> float | None:
        return mean_over(evidence, name, lambda run: at(run, path).get("value"), twins=twins)

    floors = {
        "asr": [("go there untriggered", mean("original", "untriggered"))],
        "asr_star": [
            ("ASR", mean("patched", "asr")),
            ("with the trigger masked in the request", mean("masked", measure)),
            ("of the clean twins", mean(measure, twins=True)),
        ],
    }
    return "".join(f"; {100 * value:.2f} % {words}" for words, value in floors.get(measure, ()) if value is not None)


def _worth(evidence: Run, name: str) -> str:
    """What the attribute is worth to the original, to read the accuracy lost by."""

    def lost(run: Run) -> float | None:
        return run["original"]["accuracy"]["value"] - run["unaware"]["accuracy"]["value"] if "unaware" in run else None

    worth = mean_over(evidence, name, lost)
    words = "where the original's answers are averaged over the attribute's values"
    return "" if worth is None else f"; {100 * worth:+.2f} {words}"


def _detectors(evidence: Run, group: str) -> Iterator[Goal]:
    for key, bar in DETECTOR.items():
        least = key != "fpr"
        word = {"fpr": "false positive rate"}.get(key, key)
        asked = f"Images: detector {word} {'≥' if least else '≤'} {bar:g}, exact match"
        found = mean_of(fits(evidence, group), Measure(lambda run, key=key: map_share(run["maps"], key)))
        if found is None:
            yield Goal(asked, "not measured", Verdict.NOT_JUDGED)
        else:
            yield Goal(asked, found.plain(3), judged(found, bar, least=least), found)


def _victims(evidence: Run) -> Iterator[Goal]:
    every = {setting["name"]: victims_of(evidence, setting["name"]) for setting in evidence["settings"]}
    victims = {
        name: planted
        for name, some in every.items()
        if (planted := {seed: one for seed, one in some.items() if "twin" in one and "asr" in one.get("model", {})})
    }
    if not victims:
        return
    for what, measure, bound, least in (
        ("Victims: ASR ≥ 95 % before", only("model", "asr"), VICTIM_ASR, True),
        ("Victims: accuracy at most 2 points below the clean twin", BELOW_TWIN, VICTIM_ACCURACY, False),
    ):
        found = one_by_one(victims, measure, bound, least=least)
        missed = [f"{name} {one.estimate.percent(1)}" for name, one in found.items() if one.verdict is Verdict.NOT_MET]
        goal = _each(f"{what}, in each setting", found)
        yield Goal(goal.what, "; ".join([goal.found, *missed]), goal.verdict)


def _wrong(run: Run, who: str) -> Run:
    accuracy = run[who]["accuracy"]
    return of_the_same(accuracy, 1 - accuracy["value"])


BELOW_TWIN = Measure(lambda run: _wrong(run, "model"), lambda run: _wrong(run, "twin"))
"""How much less accurate a victim is than its clean twin, as if they were never wrong on the same request."""


def _clean_only(evidence: Run) -> Iterator[Goal]:
    tried, fitted = fits(evidence, step="oneclass"), fits(evidence)
    asked = "clean data only, two passes: ASR\\* ≤ 5 %, clean requests flagged ≤ 2 %, accuracy lost ≤ 0.1 points"
    for name in _unlabeled(evidence):
        runs = {
            seed: {**run, "original": fitted[name][seed]["original"]}
            for seed, run in tried.get(name, {}).items()
            if seed in fitted.get(name, {})
        }
        found = [mean_of({name: runs}, measure) for measure in (left("asr_star"), FLAGGED, LOST, left("asr"))]
        if any(one is None for one in found):
            yield Goal(f"{name}, {asked}", "not measured", Verdict.NOT_JUDGED)
            continue
        attack, flagged, lost, raw = (one for one in found if one is not None)
        told = f"{attack.percent()} % (ASR {raw.percent()} %), {flagged.percent()} %, {lost.percent()}"
        bounds = zip((attack, flagged, lost), CLEAN_ONLY.values(), strict=True)
        yield Goal(f"{name}, {asked}", told, joint(judged(one, most) for one, most in bounds))


def _inversion(evidence: Run) -> Iterator[Goal]:
    for name in _unlabeled(evidence):
        asked = f"{name}, unknown trigger: right class, ASR\\* of the real trigger ≤ 2 %, nothing found in the twin"
        for run in fits(evidence, step="inversion").get(name, {0: {}}).values():
            if not run:
                yield Goal(asked, "not measured", Verdict.NOT_JUDGED)
                continue
            attack, raw = (mean_of({name: {0: run}}, only("hotfix", "patched", key)) for key in ("asr_star", "asr"))
            quiet = not run.get("twin", {"found": False})["found"]
            told = f"towards {run['towards'] or 'none'}, twin {'quiet' if quiet else 'accused'}"
            parts = [known(run["towards"] == [run["target"]] and quiet and attack is not None)]
            if attack is not None and raw is not None:
                told += f", {attack.percent()} % (ASR {raw.percent()} %)"
                parts.append(judged(attack, INVERTED))
            yield Goal(asked, told, joint(parts), attack)


def _unlabeled(evidence: Run) -> list[str]:
    return [setting["name"] for setting in evidence["settings"] if setting["unlabeled"]]


def _effort(evidence: Run) -> Iterator[Goal]:
    if evidence["quick"] or evidence["threads"] != 1:
        return
    asked = f"The whole of it from nothing, on two cores: ≤ {HOURS} h"
    hours = sum(sum(stages.values()) for stages in minutes(evidence).values()) / 60
    told, verdict = f"{hours / 2:.1f} h: half of what the parts add up to on one core", known(hours / 2 <= HOURS)
    missing = [
        setting["name"]
        for setting in evidence["settings"]
        if set(setting["trained"]) - victims_of(evidence, setting["name"]).keys()
    ]
    if missing:
        told += f", without victims of {len(missing)} settings, which were not measured"
        verdict = verdict if verdict is Verdict.NOT_MET else Verdict.NOT_JUDGED
    yield Goal(asked, told, verdict)
