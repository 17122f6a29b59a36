"""The page of a fit: what was found, at which sites, and how sure it is. Made only from the hotfix (extra `report`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..hotfix.evidence import FigureName
from ..hotfix.file import Hotfix
from ..inference.output_kinds import likeness_in_words
from ..pages import environment
from .judge import bound_in_words, ruined_in_words

__all__ = ["fit_page"]

FIGURES: dict[FigureName, str] = {
    "asr_star": "attacks that still work",
    "unfair": "unfair groups left",
    "recovered": "triggered requests answered like clean ones",
    "accuracy": "accuracy on clean requests",
    "clean_changed": "clean predictions changed",
}
"""Evidence key → words on the page, the most important figure first."""

Place = Callable[[float], float]

MARGIN = 0.04
"""Share of a lane's width that is left free at each end."""


@dataclass(frozen=True)
class _Lane:
    """One site: its score distributions on a common scale, in percent of the width; None where there are no scores."""

    name: str
    detects: bool
    recall: Mapping[str, Any]
    clean_flagged: Mapping[str, Any]
    clean: tuple[float, ...] | None
    anomalous: tuple[float, ...] | None
    decides: bool = False
    """The threshold is compared with this score."""


def fit_page(hotfix: Hotfix, model: str, price: str = "") -> str:
    """The page as HTML.

    Args:
        hotfix: with the evidence that `fit` puts into it.
        model: name to show.
        price: what requests cost, a sentence; "": not measured.

    Raises:
        AtpatchError: ATP051 without jinja2.
    """
    evidence = hotfix.evidence
    report, calibration = evidence["report"], evidence["calibration"]
    place, threshold = _scale(evidence["sites"], evidence.get("together", {}), hotfix)
    lanes = _lanes(hotfix, place)
    before, after = report["before"], report["after"]
    known = [key for key in FIGURES if key in before and "rate" in before[key]]
    figures = [(FIGURES[key], before[key], after[key]) for key in known]
    return (
        environment()
        .get_template("fitting/page.html.j2")
        .render(
            model=model,
            verdict=_verdict(hotfix),
            lanes=lanes,
            threshold=threshold,
            figures=figures,
            report=report,
            benign=calibration.get("benign", []),
            passes=calibration["passes"],
            mend=calibration.get("mend", {}),
            probe=calibration.get("probe"),
            most_attack=max((choice["attack"] for choice in calibration.get("benign", [])), default=0.0) or 1.0,
            hotfix=hotfix.describe(),
            percent=_percent,
            remarks=list(filter(None, (bound_in_words(report), ruined_in_words(report)))),
            price=price,
            likeness_in_words=likeness_in_words,
            lost="clean rows answered wrongly" if "accuracy" in before else "clean predictions changed",
            changed="predictions changed, of the original requests" if "unfair" in before else FIGURES["clean_changed"],
        )
    )


def _lanes(hotfix: Hotfix, place: Place | None) -> list[_Lane]:
    """Scores site by site; before them, where all sites decide together, those of all."""
    evidence, report = hotfix.evidence, hotfix.evidence["report"]
    together = evidence.get("together", {})
    lanes = [
        _Lane(
            site.id,
            evidence["sites"][site.id]["detects"],
            report["sites"][site.id]["recall"],
            report["sites"][site.id]["clean_flagged"],
            *_both(evidence["sites"][site.id].get("scores", {}), place),
        )
        for site in hotfix.sites
    ]
    if together:
        clean, anomalous = _both(together, place)
        lanes.insert(
            0,
            _Lane(
                "all sites together", True, report["recall"], report["clean_flagged"], clean, anomalous, decides=True
            ),
        )
    elif hotfix.joint != "sum":
        lanes = [replace(lane, decides=lane.detects) for lane in lanes]
    return lanes


def _verdict(hotfix: Hotfix) -> str:
    """One sentence: how much of the fault is left, and how many clean requests are flagged."""
    report = hotfix.evidence["report"]
    flagged = report["clean_flagged"]
    price = (
        f"{flagged['k']} of {flagged['n']} clean requests are flagged"
        if flagged["n"]
        else "no clean request was held back"
    )
    faults: dict[FigureName, str] = {"unfair": "unfair groups", "asr_star": "attacks"}
    for key, fault in faults.items():
        if key in report["before"] and report["before"][key]["n"]:
            before, after = report["before"][key], report["after"][key]
            return f"Of {before['k']} {fault} that worked before, {after['k']} still work; {price}."
    recovered = report["after"].get("recovered")
    if recovered is not None and recovered["n"]:
        return f"{recovered['k']} of {recovered['n']} triggered requests are answered like their clean twins; {price}."
    return f"Fitted only on clean requests: {price}. There was no attack to judge it by."


def _scale(
    sites: Mapping[str, Any], together: Mapping[str, Sequence[float]], hotfix: Hotfix
) -> tuple[Place | None, float | None]:
    """A function from a score to percent of the width, and the place of the threshold. Probabilities become logits."""
    spreads = [*together.values(), *(row for site in sites.values() for row in site.get("scores", {}).values())]
    values: list[float] = [value for row in spreads for value in row]
    if not values:
        return None, None
    bar = hotfix.threshold
    if hotfix.detector in ("profile", "cnn"):
        bar = math.log(bar / (1 - bar)) if 0 < bar < 1 else math.copysign(20.0, bar - 0.5)
    low, high = min(*values, bar), max(*values, bar)
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return 100 * (MARGIN + (1 - 2 * MARGIN) * (value - low) / width)

    return place, place(bar)


def _both(
    scores: Mapping[str, Sequence[float]], place: Place | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    return _placed(scores.get("clean"), place), _placed(scores.get("anomalous"), place)


def _placed(row: Sequence[float] | None, place: Place | None) -> tuple[float, ...] | None:
    return tuple(round(place(value), 2) for value in row) if row and place else None


def _percent(figure: Mapping[str, Any]) -> str:
    return f"{100 * figure['rate']:.3g} %" if "rate" in figure else "–"
