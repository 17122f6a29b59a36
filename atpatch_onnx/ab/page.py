"""An analysis as one HTML page that needs nothing else: pictures first (extra `report`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..pages import environment
from ..statistics.sequential import ALPHA
from . import pictures
from .headline import NAMES, percent
from .paired import Bounds
from .results import Analysis, Revision

__all__ = ["render_page"]


def render_page(analysis: Analysis) -> str:
    """The page as HTML; revisions with the newest first.

    Raises:
        AtpatchError: ATP051 without jinja2.
    """
    templates = environment()
    templates.filters |= {"percent": percent, "when": lambda moment: f"{moment:%Y-%m-%d %H:%M}"}
    newest = analysis.newest
    ordered = sorted(analysis.revisions, key=lambda revision: revision.end, reverse=True)
    html = templates.get_template("ab/page.html.j2").render(
        analysis=analysis,
        headline=newest.headline,
        newest=newest,
        tiles=_tiles(newest),
        sections=[{"revision": revision, "figures": _figures(revision)} for revision in ordered],
    )
    # JSON and file names can spell halves of characters, which no page could hold.
    return html.encode("utf-8", "replace").decode()


def _tiles(revision: Revision) -> list[dict[str, str]]:
    tiles = [
        {
            "what": "requests",
            "value": f"{revision.requests:,}",
            "small": f"revision {revision.revision}, {revision.mode}",
        }
    ]
    pairs = revision.pairs
    if pairs and pairs.bounds:
        ends = f"{percent(pairs.bounds.least.low)} to {percent(pairs.bounds.most.high)}"
        small = f"{ends}; {pairs.bounds.missing:,} pairs missing" if pairs.bounds.missing else ends
        tiles.append({"what": "arms disagree", "value": _short(pairs.bounds), "small": small})
    if pairs and pairs.wrong:
        before, after = pairs.wrong
        small = f"{percent(before.value)} without the patch"
        tiles.append({"what": "wrong with the patch", "value": percent(after.value), "small": small})
    if revision.live:
        split = revision.live.srm
        state = "not as due" if split.alarm else "as due"
        share = split.patched / max(split.patched + split.original, 1)
        tiles.append(
            {
                "what": "units in the patched arm",
                "value": percent(share),
                "small": f"{state}, weight {percent(split.weight)}",
            }
        )
    if revision.flagged:
        flagged, bounds = revision.flagged, revision.flag_bounds
        unjudged = f"; {bounds.missing:,} not judged" if bounds and bounds.missing else ""
        tiles.append(
            {
                "what": "flagged by the patch",
                "value": _short(bounds) if bounds else percent(flagged.share.value),
                "small": f"{flagged.share.hits} of {flagged.share.count} samples{unjudged}",
            }
        )
    if revision.alarms:
        raised = revision.alarms.share
        small = f"{raised.hits} of {raised.count} samples"
        tiles.append({"what": "alarms", "value": percent(raised.value), "small": small})
    if "total" in revision.latency:
        tiles.append(
            {
                "what": "latency, median",
                "value": f"{revision.latency['total']['p50']:.2f} ms",
                "small": f"p99 {revision.latency['total']['p99']:.2f} ms",
            }
        )
    return tiles


def _short(bounds: Bounds) -> str:
    """For a tile."""
    least, most = bounds.least.share.value, bounds.most.share.value
    return f"{least * 100:.1f}\u2013{most * 100:.1f} %" if bounds.missing else percent(least)


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
                "95 % intervals; colored where 0 is outside; answers: the first one of each unit",
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
    latency = revision.comparable_latency
    if {"original", "patched"} & set(latency):
        add("Latency", _overhead(latency), pictures.latency(latency, "Latency percentiles"))
    return drawn


def _overhead(latency: Mapping[str, Mapping[str, float]]) -> str:
    counts = ", ".join(f"{name} {latency[name]['count']:,}" for name in ("original", "patched") if name in latency)
    return f"percentiles of the arms' own time; requests: {counts}"
