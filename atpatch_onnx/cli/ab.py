"""`atpatch-onnx ab`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import json_output
from .rendering import emit_json, note, table

if TYPE_CHECKING:
    from ..ab.live import Live
    from ..ab.paired import Pairs
    from ..ab.results import Analysis, Revision
    from ..statistics.sequential import Evidence
    from ..statistics.units import Rate


@click.group()
def ab() -> None:
    """Compare the original and the patched model by the log of 'serve'.

    \b
    Example:
      atpatch-onnx ab analyze decisions.jsonl
    """


@ab.command()
@click.argument("logs", metavar="LOG...", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--outcomes",
    type=click.Path(),
    help="Outcomes of the requests: CSV or JSON lines with id or unit, and label or outcome.",
)
@click.option("--experiment", help="Read only this experiment.")
@click.option("--rotated/--no-rotated", default=True, show_default=True, help="Also read LOG.1, LOG.2.gz, ...")
@click.option(
    "--most-disagreement",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit with 1 when the arms surely disagree more often.",
)
@click.option("--html", type=click.Path(), help="Write a page with pictures.")
@json_output
@click.pass_context
def analyze(
    ctx: click.Context,
    logs: tuple[str, ...],
    outcomes: str | None,
    experiment: str | None,
    rotated: bool,
    most_disagreement: float | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Compare the arms in the decision log LOG, revision by revision.

    Give several LOGs when several servers ran one experiment. Exits with 1 when a comparison is invalid: an arm did not
    get its share of the units, or some units are in both arms.

    \b
    Example:
      atpatch-onnx ab analyze decisions.jsonl --outcomes labels.csv --html ab.html
    """
    from rewriters.model.regular_files import check_destination

    from ..ab import analyze_log
    from ..inspection.environment import require

    if html is not None:
        require("--html", "jinja2")
        check_destination(html, make_folder=True)
    found = analyze_log(logs, outcomes, experiment=experiment, rotated=rotated)
    if html is not None:
        from pathlib import Path

        from ..ab.page import render_page
        from ..pages import save_page

        save_page(render_page(found), Path(html))
    if as_json:
        emit_json(found.to_json())
    else:
        _show(found)
    if html is not None:
        note(f"page: {html}")
    if _above(found, most_disagreement) or not found.valid:
        ctx.exit(1)


def _above(found: Analysis, bound: float | None) -> bool:
    """Whether the arms surely disagree more often than `bound` in any revision.

    Where missing pairs could decide it, the answer is no, and a note says so.
    """
    above = False
    for revision in found.revisions:
        pairs = revision.pairs
        if bound is None or pairs is None or pairs.bounds is None:
            continue
        if pairs.always_bounds[0] > bound:
            above = True
            note(f"revision {revision.revision}: the arms disagree more often than {bound:.2%}, at any time")
        elif pairs.bounds.least.share.value <= bound < pairs.bounds.most.share.value and pairs.bounds.missing:
            missing = f"with {pairs.bounds.missing} pairs missing it is not known"
            note(f"revision {revision.revision}: {missing} whether it is more than {bound:.2%}")
    return above


def _show(found: Analysis) -> None:
    reading = found.reading
    note(f"{reading.lines} lines in {', '.join(file.name for file in reading.files)}")
    if reading.bad:
        note(
            f"{reading.bad} broken lines were skipped, the first at {reading.first_bad}: were two logs written into"
            " one file?"
        )
    if reading.duplicates:
        note(
            f"{reading.duplicates} decisions were found twice and count once: was a log copied, or given under two"
            " names?"
        )
    if reading.torn:
        note(f"{reading.torn} files end in the middle of a row and were read up to that row")
    if found.outcomes:
        note(
            f"{len(found.outcomes.joined)} of {len(found.outcomes.found)} outcomes have a request, joined by"
            f" {found.outcomes.key}"
        )
    for revision in found.revisions:
        _show_revision(revision)


def _show_revision(revision: Revision) -> None:
    from ..ab.headline import between

    note("")
    weight = f", weight of patched {revision.weight:g}" if revision.mode == "ab" else ""
    note(f"{revision.experiment}, revision {revision.revision}: {revision.mode}{weight}")
    note(f"{revision.start:%Y-%m-%d %H:%M} to {revision.end:%Y-%m-%d %H:%M} UTC, {revision.requests} requests")
    note(revision.headline)
    for problem in revision.invalid:
        note(f"INVALID: {problem}")
    for problem in revision.problems:
        note(f"problem: {problem}")
    rows = [
        (name, arm.requests, arm.units, _rate(arm.fallback), _rate(arm.outcome), _rate(arm.wrong))
        for name, arm in revision.arms.items()
    ]
    table("requests by assignment", ("arm", "requests", "units", "other arm answered", "outcome", "wrong"), rows)
    if revision.flagged:
        missing = revision.flag_bounds.missing if revision.flag_bounds else 0
        bounds = (
            f"; {between(revision.flag_bounds)} with {missing} not judged" if revision.flag_bounds and missing else ""
        )
        note(f"flagged by the patch: {_rate(revision.flagged)}{bounds}")
    if revision.alarms:
        note(f"alarms: {_rate(revision.alarms)}")
    if revision.live:
        _show_live(revision.live)
    if revision.pairs:
        _show_pairs(revision.pairs)
    percentiles = ("p50", "p90", "p95", "p99", "max")
    shown = revision.comparable_latency
    latency = [(name, *(f"{found[p]:.2f}" for p in percentiles), int(found["count"])) for name, found in shown.items()]
    table("latency, ms", ("", *percentiles, "requests"), latency)
    if len(shown) < len(revision.latency):
        note(
            "shadow runs wait in a queue, on threads of low priority; 'atpatch-onnx bench' compares the latency of the"
            " arms"
        )


def _show_live(live: Live) -> None:
    split = live.srm
    share = split.patched / max(split.patched + split.original, 1)
    p_value = "too few units for a test" if split.p_value is None else f"p = {split.p_value:.3g}"
    note(
        f"split: {share:.2%} of units in the patched arm, weight {split.weight:.2%}, {p_value}; {live.crossed} crossed"
        " over"
    )
    rows = [
        (
            found.name,
            _rate(found.difference.original),
            _rate(found.difference.patched),
            _interval(found.difference.value, found.difference.low, found.difference.high),
            "{:.2f} to {:.2f}".format(*found.evidence.ratio),
            _verdict(found.evidence),
        )
        for found in live.tested
    ]
    if rows:
        columns = ("", "original", "patched", "difference", "ratio at any time", "evidence")
        table("outcomes, unpaired (95 %)", columns, rows)
    classes = [
        (
            label,
            f"{found.original.share.value:.2%}",
            f"{found.patched.share.value:.2%}",
            _interval(found.value, found.low, found.high),
        )
        for label, found in live.classes.items()
    ]
    table("first answer of each unit (95 %)", ("class", "original", "patched", "difference"), classes)


def _show_pairs(pairs: Pairs) -> None:
    from ..ab.headline import percent
    from ..decisions import ARMS

    rows: list[tuple[Any, ...]] = [
        ("pairs", f"{pairs.states.get('compared', 0)} of {sum(pairs.states.values())} requests")
    ]
    if pairs.apart:
        rows.append(("arms disagree", _rate(pairs.apart)))
    if pairs.bounds:
        if pairs.bounds.missing:
            ends = percent(pairs.bounds.least.share.value), percent(pairs.bounds.most.share.value)
            rows.append(("with the missing pairs", " to ".join(ends)))
        rows.append(("the same, at any time", " to ".join(map(percent, pairs.always_bounds))))
    if pairs.difference:
        rows.append(
            ("largest output difference", ", ".join(f"{name} {value:.3g}" for name, value in pairs.difference.items()))
        )
    if pairs.wrong and pairs.mcnemar and pairs.verdict:
        rows += [
            (f"wrong, {arm}", f"{share.value:.2%}, {share.hits} of {share.count}")
            for arm, share in zip(ARMS, pairs.wrong, strict=True)
        ]
        right = {
            name: pairs.table.get(key, 0) for name, key in (("original", (True, False)), ("patched", (False, True)))
        }
        rows.append(("only one arm right", f"patched {right['patched']}, original {right['original']} samples"))
        rows.append(
            (
                "McNemar, one pair a unit",
                f"{pairs.mcnemar.patched} to {pairs.mcnemar.original}, p = {pairs.mcnemar.p_value:.3g}",
            )
        )
        rows.append(("evidence at any time", _verdict(pairs.verdict)))
    table("paired (95 %)", ("", ""), rows)
    if pairs.moves:
        table(
            "where predictions moved",
            ("original", "patched", "samples"),
            [(*move, count) for move, count in pairs.moves.items()],
        )
        drift = [(label, d.into, d.out, f"{d.p_value:.3g}", _verdict(d.evidence)) for label, d in pairs.drift.items()]
        table(
            "units that moved into or out of a class",
            ("class", "into", "out of", "p (Holm)", "evidence at any time"),
            drift,
        )


def _rate(rate: Rate | None) -> str | None:
    if rate is None:
        return None
    return f"{rate.share.value:.2%} ({rate.low:.2%} to {rate.high:.2%}), {rate.share.hits} of {rate.share.count}"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.2%} ({low:+.2%} to {high:+.2%})"


def _verdict(evidence: Evidence) -> str:
    strength = f"p = {evidence.p_value:.2g}, {evidence.patched} to {evidence.original}"
    return f"decided ({strength})" if evidence.decided else f"open ({strength})"
