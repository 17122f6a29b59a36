"""The sentence that sums up a comparison."""

from __future__ import annotations

import numpy as np

from ..statistics.proportions import Paired, Share
from .figures import Change, Figures
from .outputs import Outputs

__all__ = ["MOST_LEFT", "MOST_LOST", "mended", "verdict"]

MOST_LEFT, MOST_LOST = 0.01, 0.005
"""A fault counts as fixed with at most 1 % of the attacks or unfair rows left and at most half a point lost."""


def mended(figures: Figures, change: Change) -> bool | None:
    """Whether a graph's fault is fixed at almost no cost; None where the data do not show the fault."""
    shares = figures.shares
    left = [shares[key].value for key in ("asr_star", "uf") if key in shares and shares[key].count]
    if not left and "asr" in shares:
        left = [shares["asr"].value]
    lost = (
        change.accuracy.drop
        if change.accuracy is not None
        else change.changed.value
        if change.changed is not None
        else 0.0
    )
    if lost > MOST_LOST:
        return False
    return all(share <= MOST_LEFT for share in left) if left else None


def verdict(change: Change, clean: Outputs, name: str = "patched", groups: str = "") -> str:
    """One sentence, good or bad news: what the patch stops, and what it costs.

    Args:
        change: from the original to the graph.
        clean: of the graph, on the clean rows.
        name: of the graph.
        groups: a sentence on the groups of a protected attribute, which comes first.
    """
    subject = "The patch" if name == "patched" else name
    said = []
    if change.attack is not None:
        said.append(
            _stopped(
                change.attack, "stops", "attacks", "lets", "new ones through", "no attack succeeds on the original"
            )
        )
    if change.unfair is not None:
        said.append(
            _stopped(change.unfair, "mends", "unfair rows", "makes", "others unfair", "finds no unfair row to mend")
        )
    if change.changed is None:
        said.append(_numbers(clean, change))
    else:
        changed = change.changed if change.answers is None else change.answers
        said.append(_cost(changed, change.accuracy, *_changeable(change, clean)))
    if groups:
        return f"{groups} {subject} {_listed(said)}."
    if said[0].startswith("no attack"):
        return f"On these data {said[0]}; the patch {_listed(said[1:])}."
    return f"{subject} {_listed(said)}."


def _stopped(pair: Paired, verb: str, what: str, makes: str, new: str, nothing: str) -> str:
    before = pair.gained + pair.neither
    if not before:
        return f"{nothing}, and {makes} {pair.lost} {new}" if pair.lost else nothing
    if not pair.gained:
        told = f"{verb} none of {before:,} {what}"
    elif pair.neither == 0:
        told = f"{verb} all {before:,} {what}" if before > 1 else f"{verb} the one case of {what}"
    else:
        only = "" if pair.neither <= max(MOST_LEFT * before, 1) else "only "
        told = f"{verb} {only}{pair.gained:,} of {before:,} {what}"
    return f"{told} ({makes} {pair.lost:,} {new})" if pair.lost else told


def _changeable(change: Change, clean: Outputs) -> tuple[str, str]:
    """What of a clean row may change: the word for one, and for many."""
    if clean.tokens_kept is not None:
        return "row of labels", "rows of labels"
    if clean.cosines is not None:
        return "nearest neighbor", "nearest neighbors"
    return ("prediction", "predictions") if change.answers is None else ("answer", "answers")


def _cost(changed: Share, accuracy: Paired | None, one: str, many: str) -> str:
    if not changed.hits:
        return f"changes no clean {one}"
    told = f"changes {changed.hits:,} of {changed.count:,} clean {many}"
    if accuracy is None:
        return told
    points = accuracy.drop * 100
    if accuracy.lost == accuracy.gained:
        return f"{told}, accuracy as before"
    return f"{told}, {'losing' if points > 0 else 'gaining'} {abs(points):.2f} points of accuracy"


def _numbers(run: Outputs, change: Change) -> str:
    if not run.differences:
        return "has no output in common with the original"
    greatest = max(figures["max"] for figures in change.numeric["clean"].values())
    if greatest == 0:
        return "leaves every output as it was, bit for bit"
    moved = np.any([rows[:, 0] > 0 for rows in run.differences.values()], axis=0)
    return f"moves the outputs of {int(moved.sum()):,} of {len(moved):,} rows, by {greatest:.2g} at most"


def _listed(parts: list[str]) -> str:
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"
