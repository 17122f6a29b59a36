"""What an evidence file says of settings, run by run, and the figures that settings are judged by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atpatch_onnx.statistics.proportions import CONFIDENCE

from .estimates import Estimate, combined, of_settings, of_the_same
from .test_sets import data_set, marked
from .verdicts import Judged, together

__all__ = [
    "FLAGGED", "LOST", "NAMES", "Measure", "Run", "Settings", "at", "fault_of", "fits", "fitted_again", "left",
    "map_share", "mean_of", "mean_over", "one_by_one", "only", "steps_of", "twins_of", "victims_of",
]  # fmt: skip

Run = Mapping[str, Any]
Settings = Mapping[str, Mapping[int, Run]]
"""Setting → seed of the run → figures."""

NAMES = {"asr": "ASR", "asr_star": "ASR\\*", "uf": "UF"}


def at(run: Run, path: Sequence[str]) -> Any:
    """What lies at the end of a path of keys, {} where it was not measured."""
    found: Any = run
    for key in path:
        found = found.get(key, {})
    return found


def fault_of(figures: Run) -> str:
    """The measure that a model is judged by: "uf" where it was measured, else "asr_star"."""
    return "uf" if "uf" in figures else "asr_star"


def fits(evidence: Run, group: str | None = None, step: str = "fit") -> Settings:
    """Figures of a step, of all settings or those of a group, marked with what test sets share; failed ones are left
    out, and settings without any.
    """
    found: dict[str, dict[int, Run]] = {
        setting["name"]: {} for setting in evidence["settings"] if group in (None, setting["group"])
    }
    for run in evidence["runs"]:
        figures = run["steps"].get(step, {})
        if run["setting"] in found and figures and "error" not in figures:
            found[run["setting"]][run["seed"]] = marked(figures, evidence, run["setting"], run["seed"])
    return {name: runs for name, runs in found.items() if runs}


def steps_of(evidence: Run, setting: str, step: str) -> list[Run]:
    """Figures of a step over the seeds of a setting; failed ones are left out."""
    return list(fits(evidence, step=step).get(setting, {}).values())


def twins_of(evidence: Run, setting: str) -> list[Run]:
    """Figures of the models trained without the fault, over the seeds of a setting."""
    return [run["victim"]["twin"] for run in evidence["runs"] if run["setting"] == setting and "twin" in run["victim"]]


def victims_of(evidence: Run, setting: str) -> dict[int, Run]:
    """Seed of the victim → its figures: a victim that was fitted with several seeds is one."""
    victims = {run["victim"]["seed"]: run["victim"] for run in evidence["runs"] if run["setting"] == setting}
    return {seed: marked(victim, evidence, setting, seed) for seed, victim in victims.items()}


def fitted_again(evidence: Run) -> str:
    """Settings with fewer victims than fits, as a sentence names them; "" where there is none."""
    found = {name: (len(victims_of(evidence, name)), len(runs)) for name, runs in fits(evidence).items()}
    return ", ".join(f"`{name}` ({victims} of {fits})" for name, (victims, fits) in found.items() if victims < fits)


def mean_over(evidence: Run, group: str, read: Callable[[Run], float | None], *, twins: bool = False) -> float | None:
    """Mean over the settings of a group of means over seeds, of what `read` finds in the step `fit`, or in the clean
    twins' figures.
    """
    means = []
    for name, runs in fits(evidence, group).items():
        values = [
            value for run in (twins_of(evidence, name) if twins else runs.values()) if (value := read(run)) is not None
        ]
        if values:
            means.append(float(np.mean(values)))
    return float(np.mean(means)) if means else None


@dataclass(frozen=True)
class Measure:
    """A share of a run's figures; None where it was not measured.

    less: a share to be taken off, of the same requests, none of which is in both.
    """

    share: Callable[[Run], Run | None]
    less: Callable[[Run], Run | None] | None = None


def only(*path: str) -> Measure:
    """The share at the end of a path of keys."""
    return Measure(lambda run: at(run, path) or None)


def left(measure: str) -> Measure:
    """What a patch leaves of the fault."""
    return only("patched", measure)


FLAGGED = only("clean_flagged")


def _moved(run: Run, sign: int) -> Run:
    """Share of clean rows whose prediction was right before only (sign 1) or after only (-1).

    Files hold how many predictions changed, and by how much the number of right ones fell. Some may have changed from
    wrong to wrong, in which case less was lost and gained than this says.
    """
    before, after = run["original"]["accuracy"], run["patched"]["accuracy"]
    value = (run["patched"]["clean_changed"]["value"] + sign * (before["value"] - after["value"])) / 2
    return of_the_same(before, max(0.0, value))


LOST = Measure(lambda run: _moved(run, 1), lambda run: _moved(run, -1))
"""Accuracy lost."""


def map_share(maps: Run, key: str) -> Run | None:
    """Precision, recall, false positive rate or `touched` of the step's maps, as a share of requests.

    Half of the maps are clean. Maps of one request at several sites hang together, so they count as one. Of which test
    sets they are is not told, so all runs may have the same.
    """
    if maps[key] is None:
        return None
    half = maps["maps"] / 2 / max(1, len(maps["sites"]))
    flagged = half * (maps["recall"] + maps["fpr"])
    return {"value": maps[key], "count": max(1, round(flagged if key == "precision" else half))}


def mean_of(settings: Settings, measure: Measure, level: float = CONFIDENCE) -> Estimate | None:
    """Mean over settings. Those of one data set, named by the first word, share their requests, others do not."""
    shared: dict[str, list[Mapping[int, Run]]] = defaultdict(list)
    for name, runs in settings.items():
        shared[data_set(name)].append(runs)
    parts = []
    for several in shared.values():
        shares, less = (
            []
            if read is None
            else [{seed: one for seed, run in runs.items() if (one := read(run))} for runs in several]
            for read in (measure.share, measure.less)
        )
        if (found := of_settings(shares, level, less)) is None:
            return None
        parts.append((len(several) / len(settings), found))
    return combined(parts) if parts else None


def one_by_one(settings: Settings, measure: Measure, bound: float, *, least: bool = False) -> dict[str, Judged]:
    """Settings judged each by itself, with Holm's method over all of them; what was not measured is left out.

    Args:
        bound: largest figure that is allowed; least: smallest one.
    """

    def of(name: str) -> Callable[[float], Estimate]:
        def estimated(level: float) -> Estimate:
            found = mean_of({name: settings[name]}, measure, level)
            assert found is not None
            return found

        return estimated

    names = [name for name in settings if mean_of({name: settings[name]}, measure) is not None]
    return dict(zip(names, together([of(name) for name in names], bound, least=least), strict=True))
