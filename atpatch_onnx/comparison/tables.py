"""The tables of a comparison as plain text cells, for the terminal, for Markdown and for the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .changed_rows import changed_row
from .figures import CLEAN, FIGURES, TRIGGERED, Figures
from .graph_runs import ORIGINAL
from .groups import fairness_first, group_table, rival_notes
from .naming import Names
from .result import PATCHED, Comparison
from .table import Table, percent
from .timing import latency_json
from .titles import TITLES
from .trigger_tables import trigger_tables
from .twin_figures import JUDGED, MEANINGS

__all__ = ["Table", "percent", "session_line", "tables_of"]

MOST_ROWS = 20
MOST_COLUMNS = 6


def tables_of(comparison: Comparison) -> Iterator[Table]:
    """Only those that the data give."""
    yield _figures(comparison)
    yield from group_table(comparison)
    yield from _paired(comparison)
    yield from trigger_tables(comparison)
    yield from _classes(comparison)
    yield from _changed(comparison)
    yield from _sites(comparison)
    yield _numeric(comparison)
    yield from _latency(comparison)
    yield _setup(comparison)


def _figures(comparison: Comparison) -> Table:
    figures = comparison.figures
    known = [
        name for name in fairness_first(comparison, FIGURES) if any(name in own.values for own in figures.values())
    ]
    rows = [(TITLES[name], *(_cell(own, name) for own in figures.values())) for name in known]
    notes, meanings = rival_notes(comparison), dict(FIGURES)
    if not comparison.classes:
        notes.append(
            "no output holds class scores, so labels, targets and groups are not used: only values are compared"
            " (--output-name)"
        )
    elif (kind := comparison.setup.get("output_kind")) is not None:
        notes.append(JUDGED[kind])
        meanings |= MEANINGS
    elif comparison.truths[CLEAN].labels is None:
        notes.append("no labels, so no accuracy: only agreement")
    if comparison.outputs[PATCHED][CLEAN].flags is None:
        notes.append(f"flags of the patched graph: {comparison.setup['models'][PATCHED]['flags']}")
    seen = comparison.setup.get("lengths") or {"outside": {}}
    for name, outside in seen["outside"].items():
        if outside["k"]:
            notes.append(
                f"{outside['k']:,} of {outside['n']:,} {name} rows are shorter or longer than any that the hotfix was"
                f" fitted on ({seen['shortest']} to {seen['longest']} tokens): more of them may be flagged; fit on such"
                " rows"
            )
    return Table(
        "figures",
        f"{comparison.truths[CLEAN].count:,} clean rows, shares with 95 % Wilson intervals",
        ("", *comparison.graphs),
        rows,
        meanings=[meanings[name] for name in known],
        notes=notes,
    )


def _cell(figures: Figures, name: str) -> str | None:
    if name in figures.numbers:
        return f"{figures.numbers[name]:.4g}"
    return percent(figures.shares.get(name, figures.fairness.get(name)))


def _paired(comparison: Comparison) -> Iterator[Table]:
    names, cells = list(comparison.changes), []
    every = list(comparison.changes.values())
    if every[0].changed is not None:
        cells.append(("predictions changed", *(percent(one.changed) for one in every)))
    for title, pairs in (
        ("accuracy", [one.accuracy for one in every]),
        ("attacks", [one.attack for one in every]),
        ("unfair rows", [one.unfair for one in every]),
    ):
        known = [pair for pair in pairs if pair is not None]
        if not known:
            continue
        if title == "accuracy":
            cells.append(("accuracy lost, points", *(f"{p.drop * 100:+.2f} ({_points(p.interval)})" for p in known)))
            cells.append(
                ("right before, wrong now / the other way round", *(f"{p.lost:,} / {p.gained:,}" for p in known))
            )
        else:
            cells.append(
                (f"{title} stopped / new", *(f"{p.gained:,} of {p.gained + p.neither:,} / {p.lost:,}" for p in known))
            )
        cells.append((f"{title}: McNemar's exact p", *(f"{p.p:.3g}" for p in known)))
    calm = [one.identical.get(CLEAN) for one in every]
    cells.append(("unflagged clean rows, bit-identical", *(percent(share) for share in calm)))
    yield Table("paired", "row by row against the original", ("", *names), cells)


def _points(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{low * 100:+.2f} to {high * 100:+.2f}"


def _classes(comparison: Comparison) -> Iterator[Table]:
    if not comparison.classes:
        return
    figures = comparison.figures
    found = sorted({name for own in figures.values() for name in own.classes})
    labeled = comparison.truths[CLEAN].labels is not None
    names = Names.of(comparison.setup)
    rows = []
    for name in found:
        facts = [own.classes.get(name, {}) for own in figures.values()]
        shown = (
            [percent(one.get("right"), interval=False) for one in facts]
            if labeled
            else [str(one.get("predicted", 0)) for one in facts]
        )
        rows.append((names.label(name), *([str(facts[0].get("rows", 0))] if labeled else []), *shown))
    title = "clean rows right, class by class" if labeled else "clean rows predicted as each class"
    yield Table("classes", title, ("class", *(["rows"] if labeled else []), *comparison.graphs), rows)


def _changed(comparison: Comparison) -> Iterator[Table]:
    names = Names.of(comparison.setup)
    graphs = {name: one for name, one in comparison.changes.items() if name in comparison.setup["models"]}
    for name, change in graphs.items():
        for set_name, places in change.rows.items():
            if set_name == TRIGGERED or not len(places):
                continue
            rows = []
            for place in places[:MOST_ROWS]:
                one = changed_row(comparison, name, set_name, int(place))
                before, after = (_scores(one["scores"][key]) for key in (ORIGINAL, PATCHED))
                flagged = (
                    "not known" if one["flagged"] is None else _flags(names, one["columns"]) if one["flagged"] else "no"
                )
                label = None if one["label"] is None else names.label(one["label"])
                said = (names.label(one[key]) for key in (ORIGINAL, PATCHED))
                rows.append((str(one["row"]), label, *said, flagged, before, after))
            left = len(places) - len(rows)
            yield Table(
                f"changed-{set_name}-{name}",
                f"changed predictions of {name}, {set_name} rows",
                ("row", "label", ORIGINAL, name, "flagged", f"scores, {ORIGINAL}", f"scores, {name}"),
                rows,
                notes=[f"and {left:,} more, listed by --json"] if left else [],
            )


def _scores(scores: Sequence[float]) -> str:
    return " ".join(f"{score:.3g}" for score in scores[:8]) + (" …" if len(scores) > 8 else "")


def _flags(names: Names, columns: dict[str, list[int]]) -> str:
    """Columns, and at how many sites."""
    places = [names.token(place) for place in sorted({place for found in columns.values() for place in found})]
    return f"{_few(places)} at {len(columns)} site{'s' * (len(columns) != 1)}" if columns else "yes"


def _few(places: Sequence[Any]) -> str:
    return ", ".join(map(str, places[:MOST_COLUMNS])) + (", …" if len(places) > MOST_COLUMNS else "")


def _sites(comparison: Comparison) -> Iterator[Table]:
    for name, figures in comparison.figures.items():
        if not figures.sites:
            continue
        sets, names = list(comparison.truths), Names.of(comparison.setup)
        rows = []
        for site, shares in figures.sites.items():
            columns = figures.columns[site]
            often = max(columns, key=lambda key: sum(count for _, count in columns[key]))
            frequent = _few([f"{names.token(column)} ({count:,}×)" for column, count in columns[often]]) or "none"
            rows.append((site, *(percent(shares[key], interval=False) for key in sets), f"{often}: {frequent}"))
        yield Table(
            f"sites-{name}",
            f"rows flagged at each site of {name}",
            ("site", *sets, "columns, most frequent first"),
            rows,
        )


def _numeric(comparison: Comparison) -> Table:
    rows = []
    for name, change in comparison.changes.items():
        for set_name, outputs in change.numeric.items():
            for output, one in outputs.items():
                cells = (
                    f"{one['max']:.3g}",
                    f"{one['mean']:.3g}",
                    f"{one['cosine_mean']:.6f}",
                    f"{one['cosine_min']:.6f}",
                )
                rows.append((name, set_name, output, *cells))
    for output, floor in comparison.floor.items():
        cells = (
            f"{floor[:, 0].max():.3g}",
            f"{floor[:, 1].mean():.3g}",
            f"{floor[:, 2].mean():.6f}",
            f"{floor[:, 2].min():.6f}",
        )
        rows.append(("floor: original unoptimized", f"first {len(floor)} {CLEAN}", output, *cells))
    return Table(
        "numeric",
        "outputs against the original's",
        ("graph", "rows", "output", "greatest |Δ|", "mean |Δ|", "cosine, mean", "cosine, least"),
        rows,
        note=(
            "The floor is the original against itself without graph optimizations: differences of that size are"
            " rounding."
        ),
    )


def _latency(comparison: Comparison) -> Iterator[Table]:
    rows = []
    for kind, seconds in comparison.requests.items():
        for name in (one for one in comparison.changes if one in seconds):
            told = latency_json(seconds, ORIGINAL, name)
            ratio = told["ratio"]
            times = (f"{told[key]['median']:.3f} ({told[key]['p95']:.3f})" for key in (ORIGINAL, name))
            ratios = f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
            rows.append((kind, name, str(told["requests"]), *times, ratios))
    if rows:
        yield Table(
            "latency",
            "single requests, graphs in turn; milliseconds, median (95th percentile)",
            ("requests", "graph", "count", "original", "graph's own", "ratio, median (quartiles)"),
            rows,
        )


def session_line(comparison: Comparison) -> str:
    """Providers, threads and session options in one line."""
    setup = comparison.setup
    threads = (
        f"{setup['threads']} thread{'s' * (setup['threads'] != 1)}"
        if setup["threads"]
        else "onnxruntime's choice of threads"
    )
    where = (
        f"onnxruntime {setup['versions']['onnxruntime']}, {', '.join(setup['providers'])}, {threads} on"
        f" {setup['cores']} cores"
    )
    return f"{where}, batches of {setup['batch']}, {setup['optimisation']}"


def _setup(comparison: Comparison) -> Table:
    rows = [("session", session_line(comparison))]
    if (threshold := comparison.setup.get("score_threshold")) is not None:
        rows.append(("class 1", f"a score above {threshold:.6g}"))
    for name, facts in comparison.setup["models"].items():
        patch = (
            f"; {facts['detector']} at {len(facts['patched_sites'])} sites, passes: {facts['passes']}"
            if facts["patched_sites"]
            else ""
        )
        rows.append(
            (name, f"{facts['path'] or 'in memory'}, {facts['nodes']:,} nodes, sha256 {facts['digest'][:12]}{patch}")
        )
        rows.append((f"{name}: flags", facts["flags"]))
    rows += [
        (f"{name} rows", f"{truth.count:,}, sha256 {truth.digest[:12]}") for name, truth in comparison.truths.items()
    ]
    return Table("setup", "what was run", ("", ""), rows)
