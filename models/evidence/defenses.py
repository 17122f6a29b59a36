"""Other defenses next to the hotfix, and which of them is the best one in each setting.

The rule, the same for every setting and applied to the figures of seed 0, so that nobody picks a peer by hand:

1. A *row* is one defense as it was measured: each bar of a defense that refuses requests is a row, and so is pruning
   before and after its tuning.
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
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .estimates import Estimate, combined, of_shares
from .measures import NAMES, Run, fault_of, fits
from .verdicts import Verdict, together

__all__ = ["SLACK", "Comparison", "Defense", "comparisons", "defenses", "raw_asr", "sentences"]

PEERS = {"strip": "STRIP, N = 5", "dan": "DAN", "fine_pruning": "Fine-Pruning", "head_mask": "static head mask"}
SLACK = 0.02
"""Of accuracy: what a victim may lose against its clean twin."""


@dataclass(frozen=True)
class Defense:
    """One row.

    Attributes:
        figures: accuracy, fault and, of a defense that refuses, `clean_flagged`; empty where it was skipped.
        rate: share of spare clean requests that its bar refuses; 0 where it refuses nothing.
        cost: time a request against the original.
    """

    title: str
    figures: Run
    rate: float = 0.0
    cost: str = "1"


@dataclass(frozen=True)
class Comparison:
    """The hotfix of a setting and the best peer.

    Attributes:
        verdict: "met" where the hotfix leaves less, "not met" where the peer does.
    """

    setting: str
    fault: str
    hotfix: Run
    peer: Defense
    verdict: Verdict

    @property
    def lost(self) -> float:
        """How much less accurate the peer is than the hotfix, points."""
        return float(100 * (self.hotfix["accuracy"]["value"] - self.peer.figures["accuracy"]["value"]))


def defenses(measured: Run) -> Iterator[Defense]:
    """Rows of the step `peers`."""
    for peer, title in PEERS.items():
        figures = measured.get(peer, {})
        cost = f"{figures['latency']['ratio']:.2f}" if "latency" in figures else "1"
        for rate, found in figures.get("rates", {}).items():
            yield Defense(f"{title}, bar at {100 * float(rate):g} %", found, float(rate), cost)
        if "pruned" in figures:
            title = f"{title}, {100 * figures['share']:.0f} % of neurons cut"
            yield Defense(title, figures["pruned"])
            title = f"{title}, then tuned"
        if "accuracy" in figures:
            yield Defense(title, figures, cost=cost)
        elif "skipped" in figures:
            yield Defense(f"{title}: {figures['skipped']}", {}, cost="–")


def comparisons(evidence: Run, *, any_cost: bool = False) -> list[Comparison]:
    """Of every setting that has a row to compare with, by the rule above."""
    found = []
    fitted = fits(evidence)
    for name, runs in fits(evidence, step="peers").items():
        seed = min(runs)
        if seed not in fitted.get(name, {}):
            continue
        hotfix = fitted[name][seed]["patched"]
        fault = fault_of(hotfix)
        rows = [row for row in defenses(runs[seed]) if row.figures]
        if not any_cost:
            rows = [row for row in rows if _same_cost(row, hotfix, evidence["max_clean_flagged"])]
        if rows:
            best = min(
                rows, key=lambda row: (row.figures[fault]["value"], -row.figures["accuracy"]["value"], row.title)
            )
            found.append((name, fault, hotfix, best))
    differences = [_difference(hotfix[fault], best.figures[fault]) for _, fault, hotfix, best in found]
    return [
        Comparison(*one, difference.verdict) for one, difference in zip(found, together(differences, 0.0), strict=True)
    ]


def _same_cost(row: Defense, hotfix: Run, rate: float) -> bool:
    return row.rate <= rate and hotfix["accuracy"]["value"] - row.figures["accuracy"]["value"] <= SLACK


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
        f" refuse {rate} of spare clean requests; at most {100 * SLACK:g} points less accurate): {_told(equal)}",
        f"The best one at any cost: {_told(free)}",
    ]


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
    return f"of {len(found)} settings, {', '.join(parts[:-1])}, and {parts[-1]}."


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
