"""A comparison as one HTML page without other files (extra `report`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pages import environment
from ..statistics.proportions import Share
from . import pictures
from .exemplar_view import show
from .figures import CLEAN, FLIPS, TRIGGERED
from .graph_runs import ORIGINAL
from .groups import group_tiles
from .naming import Names
from .outputs import Outputs
from .result import PATCHED, Comparison
from .tables import session_line, tables_of
from .timing import latency_json

__all__ = ["page_context", "render_report"]

MOST_SITES = 40


@dataclass(frozen=True)
class Tile:
    """A figure at the top: what it is, what it was, what it is now, and of what."""

    what: str
    was: str | None
    now: str
    small: str = ""


@dataclass(frozen=True)
class Chart:
    """A picture with what it shows."""

    title: str
    note: str
    picture: str


def render_report(comparison: Comparison) -> str:
    """The page as HTML.

    Raises:
        AtpatchError: ATP051 without jinja2 or matplotlib.
    """
    return environment().get_template("comparison/page.html.j2").render(page_context(comparison))


def page_context(comparison: Comparison) -> dict[str, Any]:
    """What the template `comparison/page.html.j2` and those that extend it read."""
    tables = list(tables_of(comparison))
    return {
        "comparison": comparison,
        "verdict": comparison.verdict(),
        "mended": comparison.mended(),
        "by_twin": comparison.outputs[ORIGINAL][CLEAN].by_twin,
        "names": {name: _model_name(comparison, name) for name in comparison.setup["models"]},
        "session": session_line(comparison),
        "tiles": _tiles(comparison),
        "shown": None if comparison.exemplar is None else show(comparison.exemplar, Names.of(comparison.setup)),
        "examples": comparison.examples,
        "full": f"{pictures.FULL:g}",
        "sites": _sites(comparison),
        "sets": [name for name in comparison.truths if comparison.outputs[PATCHED][name].flags is not None],
        "shifts": _shifts(comparison),
        "times": _times(comparison),
        "tables": [table for table in tables if table.key != "setup"],
        "setup": next(table for table in tables if table.key == "setup"),
        "cell": _cell,
    }


def _model_name(comparison: Comparison, name: str) -> str:
    paths = {one: facts["path"] or "" for one, facts in comparison.setup["models"].items()}
    path, file = paths[name], os.path.basename(paths[name])
    # Models of two folders often have one name.
    alike = sum(os.path.basename(one) == file for one in paths.values()) > 1
    folder = os.path.basename(os.path.dirname(path))
    return f"{name}, in memory" if not path else f"{folder}/{file}" if alike and folder else file


def _cell(text: str | None) -> tuple[str, str]:
    """A figure, and what follows it in brackets."""
    if text is None:
        return "–", ""
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    if not text.endswith(")") or " (" not in text:
        return text, ""
    figure, _, rest = text.partition(" (")
    return figure, rest[:-1]


def _tiles(comparison: Comparison) -> list[Tile]:
    before, after = (comparison.figures[name].shares for name in (ORIGINAL, PATCHED))
    change = comparison.changes[PATCHED]
    tiles = [Tile(*one) for one in group_tiles(comparison)]
    key = next((name for name in ("asr_star", "asr") if name in after and after[name].count), None)
    if key is not None:
        name = "Attack success (ASR*)" if key == "asr_star" else "Attack success (ASR)"
        tiles.append(Tile(name, _percent(before[key]), _percent(after[key]), f"of {after[key].count:,} triggered rows"))
    if "uf" in after:
        tiles.append(
            Tile(
                "Unfair rows (UF)",
                _percent(before["uf"]),
                _percent(after["uf"]),
                f"of {after['uf'].count:,} rows, attribute flipped",
            )
        )
    lost = ""
    if change.accuracy is not None:
        low, high = change.accuracy.interval
        lost = f"lost: {change.accuracy.drop * 100:.2f} points ({low * 100:+.2f} to {high * 100:+.2f})"
    if change.answers is not None:
        kept, small = after["answer_kept"], lost.replace("lost:", "accuracy lost:")
        small = f"of {kept.count:,}, token by token" + (f"; {small}" if small else "")
        tiles.append(Tile("Clean answers as before", None, _percent(kept), small))
    elif change.accuracy is not None:
        tiles.append(Tile("Accuracy", _percent(before["accuracy"]), _percent(after["accuracy"]), lost))
    elif change.changed is not None:
        what = "Nearest neighbors" if "neighbor_kept" in after else "Predictions"
        tiles.append(
            Tile(f"{what} changed", None, f"{change.changed.hits:,}", f"of {change.changed.count:,} clean rows")
        )
    elif change.numeric[CLEAN]:
        greatest = max(output["max"] for output in change.numeric[CLEAN].values())
        floor = max((float(rows[:, 0].max()) for rows in comparison.floor.values()), default=float("nan"))
        tiles.append(Tile("Greatest change of an output", None, f"{greatest:.2g}", f"rounding by itself: {floor:.2g}"))
    tiles += _alarm_tile(after)
    if "clean_flagged" in after:
        tiles.append(
            Tile(
                "Clean rows flagged",
                None,
                f"{after['clean_flagged'].hits:,}",
                f"of {after['clean_flagged'].count:,} clean rows",
            )
        )
    if "clean" in comparison.requests:
        ratios = {
            kind: latency_json(seconds, ORIGINAL, PATCHED)["ratio"]["median"]
            for kind, seconds in comparison.requests.items()
        }
        small = f"{ratios['flagged']:.2f}× when flagged" if "flagged" in ratios else "nothing was flagged"
        small += f", {ratios['step']:.2f}× a decode step" if "step" in ratios else ""
        tiles.append(Tile("Time for a clean request", None, f"{ratios['clean']:.2f}×", small))
    return tiles[:4]


def _alarm_tile(after: Mapping[str, Share]) -> list[Tile]:
    """What refusing on an alarm leaves of the attacks, and what it costs; nothing without an alarm."""
    if "clean_alarms" not in after:
        return []
    clean = after["clean_alarms"]
    small = f"{clean.hits:,} of {clean.count:,} clean rows refused"
    for key, name in (("asr_star", "ASR*"), ("asr", "ASR")):
        if key in after and after[key].count:
            left = after[f"{key}_with_refusal"]
            return [Tile(f"{name} if alarms are refused", _percent(after[key]), _percent(left), small)]
    return [Tile("Clean rows with an alarm", None, f"{clean.hits:,}", f"of {clean.count:,} clean rows")]


def _percent(share: Share) -> str:
    return f"{share.value * 100:.1f} %"


def _sites(comparison: Comparison) -> list[dict[str, Any]]:
    """Flag rates of each site, set by set."""
    figures, names = comparison.figures[PATCHED], Names.of(comparison.setup)
    return [
        {
            "id": site,
            "rates": [(name, share.value, share) for name, share in shares.items()],
            "columns": ", ".join(
                names.token(column) for column, _ in max(figures.columns[site].values(), key=_weight)[:8]
            ),
        }
        for site, shares in list(figures.sites.items())[:MOST_SITES]
    ]


def _weight(columns: Sequence[tuple[int, int]]) -> int:
    return sum(count for _, count in columns)


def _shifts(comparison: Comparison) -> list[Chart]:
    """How far scores moved, set by set."""
    before, after = (comparison.outputs[name] for name in (ORIGINAL, PATCHED))
    if not comparison.classes:
        return []
    charts = []
    truths = comparison.truths
    if TRIGGERED in truths:
        target = truths[TRIGGERED].target
        assert target is not None
        values = {
            key: _margin(runs[TRIGGERED], np.full(truths[TRIGGERED].count, target))
            for key, runs in _both(before, after)
        }
        aimed = Names.of(comparison.setup).class_of(target)
        note = f"Score of the target, {aimed}, above the best other one; right of the line the attack succeeds."
        charts.append(
            Chart("Triggered rows", note, pictures.histogram(values, "Margin of the target on triggered rows"))
        )
    if FLIPS in truths:
        group = truths[FLIPS].group
        assert group is not None
        values = {key: _spread_in_groups(runs[FLIPS], group) for key, runs in _both(before, after)}
        note = (
            "Greatest difference of the first score margin within a group, whose rows differ only in the protected"
            " attribute."
        )
        charts.append(Chart("Flip set", note, pictures.histogram(values, "Spread of scores within groups")))
    labels = truths[CLEAN].labels
    classes = before[CLEAN].predictions if labels is None else labels
    values = {key: _margin(runs[CLEAN], classes) for key, runs in _both(before, after)}
    what = "the class that the original predicts" if labels is None else "the right class"
    note = (
        f"Score of {what} above the best other one; left of the line the prediction is"
        f" {'another' if labels is None else 'wrong'}."
    )
    charts.append(Chart("Clean rows", note, pictures.histogram(values, "Margin of the right class on clean rows")))
    return charts


def _both(before: Mapping[str, Outputs], after: Mapping[str, Outputs]) -> list[tuple[str, Mapping[str, Outputs]]]:
    return [("before", before), ("after", after)]


def _margin(run: Outputs, classes: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) score of a class above the best other one."""
    assert run.scores is not None
    scores = run.scores.astype(np.float64)
    rows = np.arange(len(scores))
    places = run.places(classes)
    own = scores[rows, places]
    scores[rows, places] = -np.inf
    return np.asarray(own - scores.max(1))


def _spread_in_groups(run: Outputs, group: NDArray[np.int64]) -> NDArray[np.float64]:
    margin = _margin(run, np.full(len(group), 1))
    _, which = np.unique(group, return_inverse=True)
    high, low = np.full(which.max() + 1, -np.inf), np.full(which.max() + 1, np.inf)
    np.maximum.at(high, which, margin)
    np.minimum.at(low, which, margin)
    return high - low


def _times(comparison: Comparison) -> list[Chart]:
    charts = []
    for kind, seconds in comparison.requests.items():
        told = latency_json(seconds, ORIGINAL, PATCHED)
        ratio = told["ratio"]
        note = (
            f"Median {told[ORIGINAL]['median']:.3g} ms and {told[PATCHED]['median']:.3g} ms; ratio request by request "
            f"{ratio['median']:.3f}, quartiles {ratio['low']:.3f} to {ratio['high']:.3f}, {told['requests']} requests."
        )
        title = {"clean": "Clean requests", "flagged": "Flagged requests", "step": "Decode steps"}[kind]
        charts.append(
            Chart(
                title,
                note,
                pictures.cumulative(seconds[ORIGINAL] * 1e3, seconds[PATCHED] * 1e3, f"Latency, {title.lower()}"),
            )
        )
    return charts
