"""Other defenses next to the hotfix, and which of them is the best one in each setting.

The rule, the same for every setting and applied to the figures of seed 0, so that nobody picks a peer by hand:

1. A *row* is one defense as it was measured: each bar of a defense that refuses or edits requests is a row, and so is
   pruning before and after its tuning.
2. A row has *the hotfix's clean cost* where its bar is the share of clean requests that the hotfixes are calibrated to
   flag (on the same spare clean rows), or where it refuses nothing; and where it is at most `SLACK` less accurate than
   the hotfix. A refused request counts as a wrong answer. The slack favors the peers: hotfixes may lose 0.1 to 0.3
   points.
3. The best peer is the row that leaves least of the fault (ASR*, or UF); of those that leave the same the most
   accurate, then the first by name.
4. A hotfix leaves *less* or *more* than it where the 95 % interval of the difference does not hold 0, with Holm's
   method over the settings; else the two are not told apart. The interval takes the two to be independent, which makes
   it wider than it need be, since both were asked the same requests.
5. The same is told of the best row at any cost: all rows, whatever they refuse or lose.
6. A defense that was asked a part of the requests only (ONION) counts as less accurate than the hotfix by what it lost
   against the original on that part, less what the hotfix lost against the original on all of them.
7. The clean twin, which the same recipe makes of data without triggers, is the ceiling and no row.

Rules 1 to 5 are of 2026-11-30, written with the figures of STRIP, DAN, Fine-Pruning and the head mask in sight. Version
2, of the same evening, added rules 6 and 7 and "or edits" before any figure of a peer on texts or images was seen that
it let in; on tables those of one setting had been seen (`compas-gender`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .estimates import Estimate, combined, of_shares
from .measures import NAMES, Run, fault_of, fits
from .verdicts import Verdict, together

__all__ = [
    "CEILING", "LABELED", "SLACK", "STEPS", "Comparison", "Defense", "alarms", "comparisons", "defenses", "measured",
    "raw_asr", "sentences",
]  # fmt: skip

STEPS = ("peers", "more_peers", "onion")
LABELED = "triggered or flipped rows with columns labeled, clean rows with labels"
"""What a hotfix needs."""
PEERS = {
    "strip": ("STRIP, N = 5", "clean rows"),
    "dan": ("DAN", "clean rows with labels"),
    "fine_pruning": ("Fine-Pruning", "clean rows with labels"),
    "head_mask": ("static head mask", LABELED),
    "word_filter": ("word filter", "the trigger's words"),
    "pixel_mask": ("pixel mask", "the trigger's pixels, clean rows"),
    "imbert": ("IMBERT by attention", "clean rows with labels"),
    "rap": ("RAP", "clean rows, the attacked class"),
    "onion": ("ONION", "clean rows with labels, a language model"),
    "averaged": ("column averaged out", "the column, how frequent its values are"),
    "constant": ("column set to its commonest value", "the column, its commonest value"),
    "threshold_optimizer": ("ThresholdOptimizer", "the column of every request, clean rows with labels"),
}
"""Key in the steps' figures → title, and what the defense needs to know."""
CEILING = ("clean twin: trained again without the poisoned rows (ceiling)", "all training rows, which are poisoned")
SLACK = 0.02
"""Of accuracy: what a victim may lose against its clean twin."""


@dataclass(frozen=True)
class Defense:
    """One row.

    Attributes:
        figures: accuracy, fault and, of a defense that refuses, `clean_flagged`; empty where it was skipped.
        rate: share of spare clean requests that its bar refuses; 0 where it refuses nothing.
        cost: time a request against the original.
        needs: what it has to know.
    """

    title: str
    figures: Run
    rate: float = 0.0
    cost: str = "1"
    needs: str = ""


@dataclass(frozen=True)
class Comparison:
    """The hotfix of a setting and the best peer.

    Attributes:
        hotfix: figures of the patched model; lost: how much less accurate the peer is than it, points.
        verdict: "met" where the hotfix leaves less, "not met" where the peer does.
    """

    setting: str
    fault: str
    hotfix: Run
    peer: Defense
    lost: float
    verdict: Verdict


def measured(evidence: Run) -> dict[str, tuple[int, Run]]:
    """Setting → the first seed that has peers, and their figures."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for step in STEPS:
        for name, runs in fits(evidence, step=step).items():
            for seed, figures in runs.items():
                found.setdefault(name, {}).setdefault(seed, {}).update(figures)
    return {name: (min(runs), runs[min(runs)]) for name, runs in found.items()}


def defenses(figures: Run) -> Iterator[Defense]:
    """Rows of a setting's peers."""
    for peer, (title, needs) in PEERS.items():
        yield from _rows(figures.get(peer, {}), title, needs)


def alarms(figures: Run) -> Iterator[Defense]:
    """Rows of the hotfix where a request with an alarm is refused; `figures`: of the step `alarm`. It is no peer."""
    yield from _rows(figures, "**hotfix**, refused on an alarm", LABELED)


def _rows(figures: Run, title: str, needs: str) -> Iterator[Defense]:
    cost = f"{figures['latency']['ratio']:.2f}" if "latency" in figures else "1"
    part = {"before": figures["before"]} if "before" in figures else {}
    if "rows" in figures:
        title = f"{title} (of {figures['rows']['clean']} clean and {figures['rows']['attacked']} triggered requests)"
    for rate, found in figures.get("rates", {}).items():
        yield Defense(f"{title}, bar at {100 * float(rate):g} %", {**found, **part}, float(rate), cost, needs)
    for words, found in figures.get("variants", {}).items():
        yield Defense(f"{title}, {words}", {**found, **part}, cost=cost, needs=needs)
    if "pruned" in figures:
        title = f"{title}, {100 * figures['share']:.0f} % of neurons cut"
        yield Defense(title, figures["pruned"], needs=needs)
        title = f"{title}, then tuned"
    if "accuracy" in figures:
        yield Defense(title, figures, cost=cost, needs=needs)
    elif "skipped" in figures:
        yield Defense(f"{title}: {figures['skipped']}", {}, cost="–", needs=needs)


def comparisons(evidence: Run, *, any_cost: bool = False) -> list[Comparison]:
    """Of every setting that has a row to compare with, by the rule above."""
    found = []
    fitted = fits(evidence)
    for name, (seed, figures) in measured(evidence).items():
        fit = fitted.get(name, {}).get(seed)
        if fit is None:
            continue
        fault = fault_of(fit["patched"])
        rows = [(row, _lost(fit, row)) for row in defenses(figures) if row.figures]
        if not any_cost:
            rows = [(row, lost) for row, lost in rows if row.rate <= evidence["max_clean_flagged"] and lost <= SLACK]
        if rows:
            best, lost = min(rows, key=lambda row: (row[0].figures[fault]["value"], row[1], row[0].title))
            found.append((name, fault, fit["patched"], best, 100 * lost))
    differences = [_difference(hotfix[fault], best.figures[fault]) for _, fault, hotfix, best, _ in found]
    return [
        Comparison(*one, difference.verdict) for one, difference in zip(found, together(differences, 0.0), strict=True)
    ]


def _lost(fit: Run, row: Defense) -> float:
    """How much less accurate a row is than the hotfix, a share; by rule 6 where it was asked a part."""
    lost: float = fit["patched"]["accuracy"]["value"] - row.figures["accuracy"]["value"]
    if "before" in row.figures:
        lost -= fit["original"]["accuracy"]["value"] - row.figures["before"]["accuracy"]["value"]
    return lost


def _difference(hotfix: Run, peer: Run) -> Callable[[float], Estimate]:
    """What the hotfix leaves minus what the peer leaves."""

    def at(level: float) -> Estimate:
        one, other = of_shares([hotfix], level), of_shares([peer], level)
        assert one is not None and other is not None
        return combined([(1, one), (-1, other)])

    return at


def sentences(evidence: Run) -> list[str]:
    """What the tables say of the peers, for the documentation: at the hotfix's clean cost, and at any."""
    equal, free = comparisons(evidence), comparisons(evidence, any_cost=True)
    if not free:
        return ["No other defense was measured."]
    rate = f"{100 * evidence['max_clean_flagged']:g} %"
    return [
        f"The best other defense of each setting at the hotfix's clean cost (it refuses nothing, or its bar was set to"
        f" refuse or edit {rate} of spare clean requests; at most {100 * SLACK:g} points less accurate):"
        f" {_told(equal)}",
        f"The best one at any cost: {_told(free)}",
        f"Settings in which each was measured: {_counted(evidence)}.",
    ]


def _counted(evidence: Run) -> str:
    """Titles with the number of settings in which a peer gave figures."""
    count = Counter(
        peer
        for _, figures in measured(evidence).values()
        for peer in PEERS
        if any(row.figures for row in _rows(figures.get(peer, {}), *PEERS[peer]))
    )
    return "; ".join(f"{title}: {count[peer]}" for peer, (title, _) in PEERS.items())


def _told(found: Sequence[Comparison]) -> str:
    words = {
        Verdict.MET: "the hotfix leaves less",
        Verdict.NOT_SHOWN: "the two are not told apart",
        Verdict.NOT_MET: "the other leaves less",
    }
    parts = []
    for verdict, word in words.items():
        those = [one for one in found if one.verdict is verdict]
        named = f" ({'; '.join(map(_pair, those))})" if those and verdict is Verdict.NOT_MET else ""
        parts.append(f"{word} in {len(those)}{named}")
    best = Counter(one.peer.title.partition(",")[0].partition(" (")[0] for one in found).most_common()
    named = ", ".join(f"{title} in {count}" for title, count in best)
    return f"of {len(found)} settings, {', '.join(parts[:-1])}, and {parts[-1]}. The best is {named}."


def _pair(one: Comparison) -> str:
    left, theirs = (
        f"{100 * figures[one.fault]['value']:.2f} %{raw_asr(figures)}" for figures in (one.hotfix, one.peer.figures)
    )
    return (
        f"`{one.setting}`: {NAMES[one.fault]} {left} with the hotfix, {theirs} with {one.peer.title}, {one.lost:.1f}"
        " points less accurate"
    )


def raw_asr(figures: Run) -> str:
    """ASR in brackets, where ASR* is told; ""  where there is none."""
    return f" (ASR {100 * figures['asr']['value']:.2f} %)" if "asr" in figures else ""
