"""An analysis as one HTML page that needs nothing else: pictures first (extra `report`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..pages import environment
from . import pictures
from .evidence import ALPHA
from .pictures import percent
from .results import Analysis, Pairs, Revision, Tested

__all__ = ["headline", "render_page"]

NAMES = {"outcome": "the outcome", "wrong": "wrong answers"}


def render_page(analysis: Analysis) -> str:
    """The page as HTML; revisions with the newest first.

    Raises:
        AtpatchError: ATP051 without jinja2.
    """
    templates = environment()
    templates.filters |= {"percent": percent, "when": lambda moment: f"{moment:%Y-%m-%d %H:%M}"}
    newest = max(analysis.revisions, key=lambda revision: revision.end)
    ordered = sorted(analysis.revisions, key=lambda revision: revision.end, reverse=True)
    return templates.get_template("ab/page.html.j2").render(
        analysis=analysis,
        headline=headline(newest),
        newest=newest,
        tiles=_tiles(newest),
        sections=[{"revision": revision, "figures": _figures(revision)} for revision in ordered],
    )


def headline(revision: Revision) -> str:
    """One sentence on what is known."""
    if revision.invalid:
        return "No verdict: the arms did not get the units that they were due."
    if revision.live and revision.live.tested:
        return _live_headline(revision.live.tested[-1])
    if revision.pairs and revision.pairs.apart:
        return _paired_headline(revision.pairs)
    return f"{revision.requests} requests, and nothing to compare the arms by yet."


def _live_headline(tested: Tested) -> str:
    ours, theirs = tested.difference.patched.share.value, tested.difference.original.share.value
    rates = f"{percent(ours)} with the patch, {percent(theirs)} without"
    if not tested.evidence.decided:
        return f"No difference in {NAMES[tested.name]} shown so far: {rates}."
    if tested.name == "wrong":
        return f"{'More' if ours > theirs else 'Fewer'} wrong answers with the patch: {percent(ours)} instead of {percent(theirs)}."
    return f"The outcome is {'more' if ours > theirs else 'less'} frequent with the patch: {percent(ours)} instead of {percent(theirs)}."


def _paired_headline(pairs: Pairs) -> str:
    assert pairs.apart is not None
    apart = f"The arms disagree on {percent(pairs.apart.share.value)} of samples"
    if pairs.verdict is None:
        return f"{apart}."
    better = "the patched one" if pairs.verdict.patched > pairs.verdict.original else "the original"
    if pairs.verdict.decided:
        return f"{apart}, and {better} is right more often."
    return f"{apart}; which one is right more often is open."


def _tiles(revision: Revision) -> list[dict[str, str]]:
    tiles = [{"what": "requests", "value": f"{revision.requests:,}", "small": f"revision {revision.revision}, {revision.mode}"}]
    if revision.pairs and revision.pairs.apart:
        apart = revision.pairs.apart
        tiles.append(
            {"what": "arms disagree", "value": percent(apart.share.value), "small": f"{percent(apart.low)} to {percent(apart.high)}"}
        )
    if revision.pairs and revision.pairs.wrong:
        before, after = revision.pairs.wrong
        small = f"{percent(before.value)} without the patch"
        tiles.append({"what": "wrong with the patch", "value": percent(after.value), "small": small})
    if revision.live:
        split = revision.live.srm
        state = "not as due" if split.alarm else "as due"
        share = split.patched / max(split.patched + split.original, 1)
        tiles.append({"what": "units in the patched arm", "value": percent(share), "small": f"{state}, weight {percent(split.weight)}"})
    if revision.flagged:
        flagged = revision.flagged
        tiles.append(
            {
                "what": "flagged by the patch",
                "value": percent(flagged.share.value),
                "small": f"{flagged.share.hits} of {flagged.share.count} samples",
            }
        )
    ratio = revision.pairs.ratio if revision.pairs else None
    if ratio is not None:
        tiles.append({"what": "latency, patched / original", "value": f"{ratio:.2f}×", "small": "median of pairs"})
    elif "total" in revision.latency:
        tiles.append(
            {
                "what": "latency, median",
                "value": f"{revision.latency['total']['p50']:.2f} ms",
                "small": f"p99 {revision.latency['total']['p99']:.2f} ms",
            }
        )
    return tiles


def _figures(revision: Revision) -> list[dict[str, Any]]:
    """Title, note and picture."""
    drawn: list[dict[str, Any]] = []

    def add(title: str, note: str, picture: str) -> None:
        drawn.append({"title": title, "note": note, "picture": picture})

    pairs, live = revision.pairs, revision.live
    if pairs and pairs.moves:
        add(
            "Where predictions moved",
            "samples on which the arms disagree, by class",
            pictures.moves(pairs.classes, "Where predictions moved"),
        )
    if live:
        rows = [(NAMES[tested.name], tested.difference) for tested in live.tested]
        rows += [(f"answer {label}", found) for label, found in live.classes.items()]
        if rows:
            add(
                "Patched less original",
                "95 % intervals; coloured where they leave 0 out; answers: first one of each unit",
                pictures.forest(rows, "Differences between the arms"),
            )
        for tested in live.tested:
            note = f"units with {NAMES[tested.name]}: more or fewer in the patched arm than its weight says"
            add(
                f"Evidence: {NAMES[tested.name]}",
                note,
                pictures.evidence(tested.path, tested.evidence.alpha, f"Evidence on {NAMES[tested.name]}"),
            )
    if pairs and pairs.verdict:
        add(
            "Evidence: which arm is right",
            "pairs in which exactly one arm is right, one a unit",
            pictures.evidence(pairs.path, ALPHA, "Evidence on which arm is right"),
        )
    if len(revision.minutes) > 1 and any(counts[0] or counts[2] for counts in revision.minutes.values()):
        add(
            "Over time",
            "flagged by the patch, and disagreements of pairs",
            pictures.timeline(revision.minutes, "Flags and disagreements over time"),
        )
    if {"original", "patched"} & set(revision.latency):
        add("Latency", _overhead(revision.latency), pictures.latency(revision.latency, "Latency percentiles"))
    return drawn


def _overhead(latency: Mapping[str, Mapping[str, float]]) -> str:
    counts = ", ".join(f"{name} {latency[name]['count']:,}" for name in ("original", "patched") if name in latency)
    return f"percentiles of the arms' own time; requests: {counts}"
