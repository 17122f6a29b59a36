"""The verdict on a revision in one sentence, the same for the terminal, the page and the JSON."""

from __future__ import annotations

from .live import Live, Tested
from .paired import Bounds, Pairs

__all__ = ["NAMES", "between", "headline", "percent"]

NAMES = {"outcome": "the outcome", "wrong": "wrong answers"}


def percent(share: float, signed: bool = False) -> str:
    """For people: `0.0213` is `2.13 %`."""
    return f"{share * 100:{'+' if signed else ''}.2f} %"


def between(bounds: Bounds) -> str:
    """A share, or both ends of what it can be."""
    least, most = percent(bounds.least.share.value), percent(bounds.most.share.value)
    return f"between {least} and {most}" if bounds.missing else least


def headline(*, invalid: bool, live: Live | None, pairs: Pairs | None, requests: int) -> str:
    """One sentence on what is known of a revision."""
    if invalid:
        return "No verdict: the arms did not get the units that the weight gives them."
    if live and live.tested:
        return _live(live.tested[-1])
    if pairs and pairs.bounds:
        return _paired(pairs, pairs.bounds)
    if pairs and pairs.difference:
        return (
            "No output has class scores, so answers are not counted: the patch moves outputs by"
            f" {pairs.difference['p50']:.3g} (median) and {pairs.difference['max']:.3g} at most."
        )
    return f"{requests} requests, and nothing to compare the arms by yet."


def _live(tested: Tested) -> str:
    ours, theirs = tested.difference.patched.share.value, tested.difference.original.share.value
    rates = f"{percent(ours)} with the patch, {percent(theirs)} without"
    if not tested.evidence.decided:
        return f"No difference in {NAMES[tested.name]} shown so far: {rates}."
    if tested.name == "wrong":
        return (
            f"{'More' if ours > theirs else 'Fewer'} wrong answers with the patch: {percent(ours)} instead of"
            f" {percent(theirs)}."
        )
    return (
        f"The outcome is {'more' if ours > theirs else 'less'} frequent with the patch: {percent(ours)} instead of"
        f" {percent(theirs)}."
    )


def _paired(pairs: Pairs, bounds: Bounds) -> str:
    if pairs.lost == pairs.due:
        return f"Nothing is known of the patch: none of {pairs.due:,} shadow requests gave a pair."
    sentence = f"The patch would change {between(bounds)} of the answers"
    if pairs.lost:
        sentence += f", as {pairs.lost:,} of {pairs.due:,} shadow requests gave no pair"
    elif bounds.missing:
        sentence += f", as for {bounds.missing:,} samples an arm gave NaN"
    return f"{sentence}{_which_is_right(pairs)}."


def _which_is_right(pairs: Pairs) -> str:
    if pairs.verdict is None:
        return ""
    if not pairs.verdict.decided:
        return "; which arm is right more often is open"
    better = "the patched arm" if pairs.verdict.patched > pairs.verdict.original else "the original"
    if pairs.settled:
        return f"; {better} is right more often"
    return f"; {better} is right more often where there are pairs, but the missing ones could reverse that"
