"""The page about the rows, and the part of the documentation's page of limits that is made of it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewriters.model.atomic import write_file

from ..estimates import of_shares
from ..verdicts import Verdict
from ..writing import table
from . import breaking
from .bounds import Runs, judge
from .rows import ROWS

__all__ = [
    "BEGIN",
    "END",
    "LIMITS",
    "bounds_table",
    "doses_table",
    "limits_part",
    "looks_part",
    "read",
    "render",
    "times_table",
    "write_pages",
]

BEGIN, END = "<!-- made by models.evidence.holding: begin -->", "<!-- made by models.evidence.holding: end -->"
RESULTS = Path(__file__).parents[2] / "results" / "holding"
LIMITS = Path(__file__).parents[3] / "docs" / "guide" / "limits.md"

RULE = """\
A bound is **met** where the whole interval lies within it, **not met** where the whole interval lies outside, else
**not shown**. Of several attacks the worst is shown; the bound is met where all of them meet it, by Holm's method.
Accuracy lost counts every changed prediction as lost or gained. Each row has one victim, so the intervals say nothing
of other victims."""

Kept = Mapping[str, Runs]
"""Row → its runs, one a seed."""


def write_pages(results: Path = RESULTS) -> None:
    """`HOLDING.md` next to the folder of results, and the part of the page of limits between the two comments."""
    kept = read(results)
    write_file(results.parent / "HOLDING.md", render(kept).encode())
    before, _, rest = LIMITS.read_text("utf-8").partition(BEGIN)
    if rest:
        write_file(LIMITS, (before + limits_part(kept) + rest.partition(END)[2]).encode())


def read(results: Path) -> Kept:
    """What the folder has, in the order of the rows."""
    files = {name: results / f"{name}.json" for name in ROWS}
    return {name: json.loads(file.read_text("utf-8"))["runs"] for name, file in files.items() if file.is_file()}


def render(kept: Kept) -> str:
    """The whole page."""
    parts = [
        "# What a hotfix holds against",
        "Every figure is from `models/results/holding/*.json`, made by `python -m models.evidence.holding`: means over"
        " the seeds of debugging set and fit (95 % interval), on rows that neither the victim nor a fit has seen."
        " Texts: the last 900 training sentences of SST-2. Digits: the test part of another split than the one that the"
        " attacks were designed with. `models/README.md` describes the victims.",
        looks_part(kept),
        "## Aims",
        RULE,
        bounds_table(kept),
        "Not measured: " + ", ".join(f"`{name}`" for name in ROWS if name not in kept) + "."
        if len(kept) < len(ROWS)
        else "",
        "## Which attack breaks which hotfix",
        breaking.breaking_part(kept),
        *(part for name in kept for part in _section(name, kept[name])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def looks_part(kept: Kept) -> str:
    """Which rows are no longer new to those who made the fits."""
    times = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
    groups = [(word, [f"`{name}`" for name in kept if ROWS[name].looks == looks]) for looks, word in times.items()]
    said = "; ".join(f"{word}: {', '.join(names)}" for word, names in groups if names)
    return textwrap.fill(
        f"**Not the first look.** Some rows were measured more than once on the same texts, each time with newer fits"
        f" ({said}). What to change in the fits was chosen on other texts, but earlier looks showed where they fell"
        " short. So these figures may be better than those on texts that nobody has looked at."
        if said
        else "",
        120,
        break_on_hyphens=False,
    )


def limits_part(kept: Kept) -> str:
    """For the page of limits: the aims, and what gets through by dose and form."""
    return "\n\n".join([BEGIN, RULE, bounds_table(kept), looks_part(kept), breaking.RULE, breaking.cheapest(kept), END])


def bounds_table(kept: Kept) -> str:
    """A line for each bound of each row; where a path leads to several figures, the worst stands there."""
    lines = [("row", "what", "figure", "aim", "")]
    for name, runs in kept.items():
        for bound in ROWS[name].bounds:
            verdict, figure = judge(runs, bound)
            aim = f"≤ {bound.most:g}" if bound.in_points else f"≤ {100 * bound.most:g} %"
            aim += " or a warning" if bound.told else ""
            word = "**not measured**" if verdict is Verdict.NOT_JUDGED else f"**{verdict}**"
            lines.append((ROWS[name].title, bound.name, figure, aim, word))
    return table(lines)


def _section(name: str, runs: Runs) -> Iterator[str]:
    row = ROWS[name]
    yield f"## {row.title[0].upper()}{row.title[1:]}"
    yield f"`--only {name}`, victim `{row.victim}`, {len(runs)} seed{'s' if len(runs) > 1 else ''}."
    yield from (f"Seed {run['seed']}: {run['note']}" for run in runs if "note" in run)
    for key in _places(runs[0]["figures"]):
        figures = [_inside(run["figures"], key) for run in runs]
        if key:
            yield f"### {key}"
        yield _clean_line([one["clean"] for one in figures])
        if figures[0]["attacks"]:
            yield doses_table([one["attacks"] for one in figures])
    for key, found in runs[0]["figures"].items():
        if isinstance(found, dict) and "why" in found and "left" in found:
            yield f"### {key}"
            yield f"No hotfix: {found['why']}"
    loose = [(key, value) for key, value in runs[0]["figures"].items() if not isinstance(value, dict)]
    if loose:
        yield "; ".join(f"{key}: {value}" for key, value in loose) + "."
    shares = dict(_shares(runs[0]["figures"]))
    if shares:
        yield table(
            [("what", "share")]
            + [(" · ".join(key), _percent([_inside(run["figures"], *key) for run in runs])) for key in shares]
        )
    if timed := times_table(runs[0]["figures"]):
        yield "Processor time on one thread, medians and quartiles over pairs of runs. *Without*: each token by itself."
        yield timed
    times = [
        f"`{call['command'].split()[0]}` {call['seconds']:.0f} s ({call['cpu_seconds']:.0f} s of processor time)"
        for call in runs[0]["commands"]
        if call["command"].split()[0] in ("debugset", "fit", "patch")
    ]
    if times:
        yield f"Times, seed {runs[0]['seed']}: {', '.join(times)}."


def doses_table(attacks: Sequence[Mapping[str, Any]]) -> str:
    """A line for each attack: ASR* before and after, and how many were flagged; where it was asked, also what is left
    of ASR* without the trigger's tokens.
    """
    columns = {
        "original": "ASR\\* before, %",
        "asr_star": "ASR\\*, %",
        "rest": "ASR\\* without the trigger's tokens, %",
        "asr": "ASR, %",
        "floor": "clean twins that go there, %",
        "flagged": "flagged, %",
        "right": "right answers, %",
    }
    asked = [key for key in columns if all(key in one for attack in attacks for one in attack.values())]
    lines = [("attack", *(columns[key] for key in asked))]
    lines += [(name, *(_percent([one[name][key] for one in attacks]) for key in asked)) for name in attacks[0]]
    return table(lines)


def times_table(figures: Mapping[str, Any]) -> str:
    """A line for each kind of request, with ratios of processor times and their quartiles; "" where there are none."""
    timed = {name: one for name, one in figures.items() if isinstance(one, dict) and "with / without" in one}
    lines = [("request", "requests", "with / without", "with / original", "original, ms")]
    for name, one in timed.items():
        ratios = [f"{one[key]['ratio']:.3f} ({one[key]['low']:.3f} to {one[key]['high']:.3f})" for key in lines[0][2:4]]
        first = one["with / original"]
        lines.append((name, str(first["requests"]), *ratios, f"{first['first_ms']:.1f}"))
    return table(lines) if timed else ""


def _clean_line(clean: Sequence[Mapping[str, Any]]) -> str:
    points = float(np.mean([one["points"] for one in clean]))
    before, after, changed, flagged = (
        _percent([one[key] for one in clean]) for key in ("original", "accuracy", "changed", "flagged")
    )
    return (
        f"Clean rows: accuracy {before} % before and {after} % after ({points:.2f} points lost), {changed} % of the"
        f" predictions changed, {flagged} % flagged."
    )


def _places(figures: Mapping[str, Any]) -> list[str]:
    """Keys below which figures of a patched graph lie; "" for the figures themselves."""
    if "clean" in figures:
        return [""]
    return [key for key, value in figures.items() if isinstance(value, dict) and "clean" in value]


def _inside(figures: Any, *keys: str) -> Any:
    for key in keys:
        figures = figures[key] if key else figures
    return figures


def _shares(figures: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Shares that belong to no patched graph's figures."""
    for key, value in figures.items():
        if not isinstance(value, dict) or "clean" in value or key in ("clean", "attacks", "hotfix"):
            continue
        if "value" in value:
            yield (*path, key), value
        else:
            yield from _shares(value, (*path, key))


def _percent(shares: Sequence[Any]) -> str:
    estimate = of_shares(shares)
    return "–" if estimate is None else estimate.percent()
