"""Pictures of an analysis as inline SVG that takes its colors from the page. All text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from ..statistics.units import Difference
from .headline import percent
from .results import PERCENTILES

__all__ = ["evidence", "forest", "latency", "moves", "timeline"]

WIDTH = 520
_TEXT = 12
_MOST_POINTS = 240
_MOST_BINS = 60
_MOST_CELLS = 8
"""Classes in the picture of moves; the others are added up."""
_HOUR, _DAY = 60, 1440


class _Canvas:
    def __init__(self, height: float, title: str) -> None:
        self._height, self._title = height, title
        self._parts: list[str] = []

    def line(
        self, x: float, y: float, x2: float, y2: float, color: str = "line", width: float = 1, dash: str = ""
    ) -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--{color})"'
            f' stroke-width="{width}"{dashes}/>'
        )

    def path(self, points: Sequence[tuple[float, float]], color: str, width: float = 2) -> None:
        data = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(
            f'<path d="{data}" fill="none" stroke="var(--{color})" stroke-width="{width}" stroke-linejoin="round"/>'
        )

    def rect(
        self, x: float, y: float, width: float, height: float, color: str, opacity: float = 1, tooltip: str = ""
    ) -> None:
        title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="var(--{color})" '
            f'fill-opacity="{opacity:.2f}">{title}</rect>'
        )

    def dot(self, x: float, y: float, color: str, tooltip: str = "", radius: float = 4.5) -> None:
        title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="var(--{color})">{title}</circle>')

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", color: str = "muted", bold: bool = False
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{_TEXT}"'
            f' fill="var(--{color})"{weight}>{escape(text)}</text>'
        )

    def svg(self) -> str:
        body = "".join(self._parts)
        return (
            f'<svg role="img" aria-label="{escape(self._title)}" viewBox="0 0 {WIDTH} {self._height:.0f}">{body}</svg>'
        )


def evidence(path: NDArray[np.float64], alpha: float, title: str) -> str:
    """log10 e after each event, and the line at which it is decided; path (N,) of natural logarithms."""
    height, left, bottom = 196, 38, 158
    canvas = _Canvas(height, title)
    values = path / math.log(10)
    bound = -math.log10(alpha)
    low, high = min(float(values.min(initial=0)), -0.5), max(float(values.max(initial=0)), bound) * 1.12

    def at(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - 14)

    canvas.line(left, at(0), WIDTH, at(0))
    canvas.line(left, at(bound), WIDTH, at(bound), "good", 1.5, "5 4")
    canvas.text(left - 6, at(bound) + 4, f"{1 / alpha:g}", "end", "good")
    if at(0) - at(bound) > _TEXT:
        canvas.text(left - 6, at(0) + 4, "1", "end")
    canvas.text(WIDTH, at(bound) + _TEXT + 2, "decided above", "end", "good")
    if values.size:
        shown = np.unique(np.linspace(0, values.size - 1, min(values.size, _MOST_POINTS)).round().astype(int))
        places = left + (shown + 1) / values.size * (WIDTH - left - 8)
        points = [
            (float(left), at(0.0)),
            *((float(x), at(float(values[index]))) for x, index in zip(places, shown, strict=True)),
        ]
        canvas.path(points, "after")
        canvas.dot(*points[-1], "after", f"e = 10^{values[-1]:.2f} after {values.size} events")
        canvas.text(
            points[-1][0] - 10,
            max(points[-1][1] - 6, _TEXT),
            _e_value(float(values[-1])),
            "end",
            "ink",
        )
    canvas.text(left, height - 6, "events, in order")
    canvas.text(WIDTH, height - 6, f"{values.size}", "end")
    return canvas.svg()


def _e_value(log10: float) -> str:
    if log10 > 300:
        return "e > 1e300"
    return f"e = {10**log10:,.0f}" if 2 <= log10 < 6 else f"e = {10**log10:.2g}"


def forest(rows: Sequence[tuple[str, Difference]], title: str) -> str:
    """Differences with their intervals, patched less original, one a row."""
    step, left, right = 34, 118, 132
    height = step * len(rows) + 34
    canvas = _Canvas(height, title)
    reach = max([abs(end) for _, found in rows for end in (found.low, found.high)] + [1e-4]) * 1.08
    middle, half = (left + WIDTH - right) / 2, (WIDTH - right - left) / 2
    canvas.line(middle, 6, middle, height - 24, "muted", 1, "3 3")
    canvas.text(middle, height - 6, "0", "middle")
    canvas.text(left, height - 6, f"−{percent(reach)}")
    canvas.text(WIDTH - right, height - 6, f"+{percent(reach)}", "end")
    for index, (name, found) in enumerate(rows):
        y = 20 + step * index
        clear = found.low > 0 or found.high < 0
        color = "after" if clear else "muted"
        canvas.text(0, y + 4, name if len(name) <= 16 else name[:15] + "…", color="ink")
        canvas.line(middle + found.low / reach * half, y, middle + found.high / reach * half, y, color, 2.5)
        tooltip = (
            f"{name}: {percent(found.value, signed=True)} ({percent(found.low, signed=True)} to"
            f" {percent(found.high, signed=True)})"
        )
        canvas.dot(middle + found.value / reach * half, y, color, tooltip)
        canvas.text(
            WIDTH, y + 4, f"{percent(found.original.share.value)} → {percent(found.patched.share.value)}", "end", "ink"
        )
    return canvas.svg()


def moves(classes: Mapping[tuple[int, int], int], title: str) -> str:
    """Where the patched arm's answers lie (columns) by the original's (rows); the diagonal, where they agree, is left
    pale.
    """
    weight: dict[int, int] = {}
    for (before, after), count in classes.items():
        if before != after:
            for label in (before, after):
                weight[label] = weight.get(label, 0) + count
    labels = sorted(sorted(weight, key=lambda label: -weight[label])[:_MOST_CELLS])
    names = [
        *map(str, labels),
        *(["other"] if len({label for move in classes for label in move}) > len(labels) else []),
    ]
    table = np.zeros((len(names), len(names)), np.int64)
    place = {label: index for index, label in enumerate(labels)}
    for (before, after), count in classes.items():
        table[place.get(before, len(names) - 1), place.get(after, len(names) - 1)] += count
    left, top = 60, 40
    cell = min((WIDTH - left - 4) / len(names), 64)
    canvas = _Canvas(top + cell * 0.62 * len(names) + 6, title)
    canvas.text(left, 12, "patched answers")
    canvas.text(0, top - 8, "original")
    most = max(int((table - np.diag(np.diag(table))).max()), 1)
    for row, name in enumerate(names):
        y = top + row * cell * 0.62
        canvas.text(left - 10, y + cell * 0.31 + 4, name, "end", "ink")
        canvas.text(left + row * cell + cell / 2, top - 8, name, "middle", "ink")
        for column, other in enumerate(names):
            count = int(table[row, column])
            x = left + column * cell
            # In the cell of all other classes the two answers may differ: it is not only agreement.
            same = row == column
            shade = 0.06 if same or not count else 0.16 + 0.74 * count / most
            tooltip = f"{count} samples: original {name}, patched {other}"
            canvas.rect(x + 1, y + 1, cell - 2, cell * 0.62 - 2, "muted" if same else "before", shade, tooltip)
            if count:
                canvas.text(
                    x + cell / 2, y + cell * 0.31 + 4, f"{count}", "middle", "muted" if same else "ink", bold=not same
                )
    return canvas.svg()


def latency(found: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Percentiles of each arm on one logarithmic axis."""
    shown = [
        (name, found[name], color) for name, color in (("original", "before"), ("patched", "after")) if name in found
    ]
    left, right, step = 70, 20, 46
    height = step * len(shown) + 40
    canvas = _Canvas(height, title)
    values = [values[f"p{p}"] for _, values, _ in shown for p in PERCENTILES]
    low, high = (math.log10(max(value, 1e-4)) for value in (min(values), max(values)))
    low, high = low - 0.08, max(high, low + 0.2) + 0.08

    def at(value: float) -> float:
        return left + (math.log10(max(value, 1e-4)) - low) / (high - low) * (WIDTH - left - right)

    for index, (name, percentiles, color) in enumerate(shown):
        y = 30 + step * index
        canvas.text(0, y + 4, name, color="ink")
        canvas.line(at(percentiles[f"p{PERCENTILES[0]}"]), y, at(percentiles[f"p{PERCENTILES[-1]}"]), y, color, 2)
        last = -math.inf
        for at_most in PERCENTILES:
            x = at(percentiles[f"p{at_most}"])
            canvas.dot(x, y, color, f"{name} p{at_most}: {percentiles[f'p{at_most}']:.3f} ms")
            if x - last > 34:
                canvas.text(x, y - 9, f"p{at_most}", "middle")
                canvas.text(x, y + 19, f"{percentiles[f'p{at_most}']:.3g}", "middle", "ink")
                last = x
    canvas.text(WIDTH, height - 6, "ms, logarithmic", "end")
    return canvas.svg()


def timeline(minutes: Mapping[int, Sequence[int]], title: str) -> str:
    """Share of samples flagged, and of pairs that disagree, over time; minute of the epoch → (samples, flagged, pairs,
    disagreements).
    """
    height, left, bottom = 190, 46, 166
    canvas = _Canvas(height, title)
    first, last = min(minutes), max(minutes) + 1
    bins = min(_MOST_BINS, last - first)
    sums = np.zeros((bins, 4), np.int64)
    for minute, counts in minutes.items():
        sums[min((minute - first) * bins // (last - first), bins - 1)] += np.asarray(counts)
    shares = [(sums[:, 1], sums[:, 0], "flag"), (sums[:, 3], sums[:, 2], "before")]
    rates = [
        (np.divide(hits, counts, out=np.full(bins, np.nan), where=counts > 0), color) for hits, counts, color in shares
    ]
    top = max([float(np.nanmax(rate)) for rate, _ in rates if np.isfinite(rate).any()] + [1e-3]) * 1.15
    for part in (0.0, 0.5, 1.0):
        y = bottom - part / 1.15 * (bottom - 10)
        canvas.line(left, y, WIDTH, y)
        canvas.text(left - 6, y + 4, percent(part / 1.15 * top), "end")
    for rate, color in rates:
        points = [
            (left + (index + 0.5) / bins * (WIDTH - left - 6), bottom - float(rate[index]) / top * (bottom - 10))
            for index in range(bins)
            if np.isfinite(rate[index])
        ]
        if len(points) > 1:
            canvas.path(points, color)
        elif points:
            canvas.dot(*points[0], color)
    canvas.text(left, height - 6, "first request")
    canvas.text(WIDTH, height - 6, f"{_span(last - first)} later", "end")
    return canvas.svg()


def _span(minutes: int) -> str:
    if minutes < 2 * _HOUR:
        return f"{minutes} min"
    return f"{minutes / _HOUR:.0f} h" if minutes < 3 * _DAY else f"{minutes / _DAY:.0f} days"
