"""Pictures for pages, each one <svg> that takes its colors from the page (extra `report`).

Shapes are drawn in stand-in colors, which then become CSS variables: one picture serves light and dark pages. Pixels
are embedded as PNG.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EXTRA_MISSING

__all__ = ["FULL", "cumulative", "heat", "histogram", "picture", "profile", "strip"]

Floats = NDArray[np.floating[Any]]
Marks = NDArray[np.bool_]

STAND_INS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--before)",
    "#040404": "var(--after)",
    "#050505": "var(--flag)",
}
INK, MUTED, BEFORE, AFTER, FLAG = STAND_INS
GLOW = (1.0, 0.58, 0.16)
"""Attention over an image: amber, which neither white ink nor black paper is."""
DIMMED = 0.55
"""Brightness of the ink under the glow, so that ink is not taken for attention."""
DARK = (0.1, 0.1, 0.11)
"""No attention, where there is no image below."""
FULL = 4.0
"""Attention, in multiples of uniform, at which the glow is at its brightest."""
MOST_BARS = 48
"""More columns than this are drawn as lines, and are not labeled one by one."""


def picture(image: Floats, title: str, marked: Marks | None = None) -> str:
    """An image (h, w, 3) in [0, 1]; patches to be framed in `marked` (rows, columns)."""
    return _pixels(image, title, marked, "var(--before)")


def heat(image: Floats, attention: Floats, flagged: Marks, title: str) -> str:
    """Attention over an image.

    Args:
        image: (h, w, 3) in [0, 1].
        attention: (rows, columns) of patches, in multiples of uniform.
        flagged: (rows, columns), patches to be framed.
    """
    zoom = image.shape[0] // attention.shape[0], image.shape[1] // attention.shape[1]
    glow = np.kron(np.clip(attention / FULL, 0, 1), np.ones(zoom))[..., None]
    gray = np.asarray(image).mean(-1, keepdims=True)
    return _pixels((1 - 0.85 * glow) * gray * DIMMED + glow * np.array(GLOW), title, flagged, "var(--flag)")


def strip(attention: Floats, flagged: Marks, title: str) -> str:
    """Attention of all sites (sites, K), in multiples of uniform: one row a site, one cell a column; flagged cells
    framed.
    """
    rows, columns = attention.shape
    glow = np.clip(attention / FULL, 0, 1)[..., None]
    cell = max(10.0, min(40.0, 640 / columns))
    colors = glow * np.array(GLOW) + (1 - glow) * np.array(DARK)
    return _pixels(colors, title, flagged, "var(--flag)", (columns * cell, rows * 18.0))


def profile(
    clean: Floats | None,
    before: Floats,
    after: Floats,
    flagged: Marks,
    title: str,
    labels: Sequence[str],
    full_width: bool = False,
) -> str:
    """Column means of one site, (K,) in multiples of uniform: bars before and after, ticks for the twin, flagged
    columns shaded.
    """
    long = any(len(label) > 3 for label in labels) and len(labels) <= MOST_BARS
    figure, axes = _figure(10.6 if full_width else 5.2, 2.5 if long else 1.9, bottom=0.34 if long else 0.13)
    place = np.arange(len(before))
    for column in np.flatnonzero(flagged):
        axes.axvspan(column - 0.5, column + 0.5, color=FLAG, alpha=0.14, lw=0)
    if len(place) <= MOST_BARS:
        axes.bar(place - 0.2, before, 0.38, color=BEFORE)
        axes.bar(place + 0.2, after, 0.38, color=AFTER)
        if clean is not None:
            axes.plot(place, clean, ls="none", marker="_", ms=11, mew=1.8, color=INK)
    else:
        axes.step(place, before, where="mid", color=BEFORE, lw=1.2)
        axes.step(place, after, where="mid", color=AFTER, lw=1.2)
    axes.axhline(1, color=MUTED, lw=0.8, ls=(0, (3, 3)))
    top = max(float(np.max([before, after] if clean is None else [clean, before, after])) * 1.22, 2.0)
    for column in np.flatnonzero(flagged)[:1]:
        axes.text(
            column,
            top * 0.97,
            "flagged",
            ha="right" if column > len(place) / 2 else "left",
            va="top",
            color=FLAG,
            fontsize=9,
        )
    axes.set(xlim=(-0.7, len(place) - 0.3), ylim=(0, top))
    if len(place) <= MOST_BARS:
        axes.set_xticks(place)
        axes.set_xticklabels(
            labels,
            fontsize=8,
            color=MUTED,
            rotation=60 if long else 0,
            ha="right" if long else "center",
            rotation_mode="anchor",
        )
    _plain(axes, "{:g}×", integer=True)
    return _svg(figure, title)


def histogram(values: Mapping[str, Floats], title: str, line: float | None = 0.0) -> str:
    """Distributions of two or three series over common bins: "before" filled, "after" as a line over it.

    Args:
        values: "before", "after" → (N,).
        line: where to draw a vertical line.
    """
    figure, axes = _figure(5.2, 2.0)
    joined = np.concatenate(list(values.values()))
    low, high = np.quantile(joined, [0.002, 0.998])
    low, high = (min(low, line), max(high, line)) if line is not None else (low, high)
    edges = np.linspace(low, high if high > low else low + 1, 41)
    heights = {name: np.histogram(np.clip(series, edges[0], edges[-1]), edges)[0] for name, series in values.items()}
    for name, height in heights.items():
        axes.stairs(height, edges, fill=True, color=BEFORE if name == "before" else AFTER, alpha=0.28, lw=0)
        axes.stairs(height, edges, color=BEFORE if name == "before" else AFTER, lw=1.6)
    if line is not None:
        axes.axvline(line, color=INK, lw=1, ls=(0, (3, 3)))
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max(height.max() for height in heights.values()) * 1.1))
    _plain(axes, "{:g}", integer=True)
    return _svg(figure, title)


def cumulative(before: Floats, after: Floats, title: str) -> str:
    """Share of requests answered within a time: steps for both, in milliseconds; a long tail is cut off."""
    figure, axes = _figure(5.2, 2.0)
    end = min(
        float(np.quantile(np.concatenate([before, after]), 0.98)), 2.5 * float(max(np.median(before), np.median(after)))
    )
    for series, color in ((before, BEFORE), (after, AFTER)):
        order = np.sort(series)  # the curve leaves the picture at the share that is faster than its end
        axes.step(order, np.arange(1, len(order) + 1) / len(order) * 100, where="post", color=color, lw=1.8)
        axes.axvline(float(np.median(series)), color=color, lw=0.9, ls=(0, (3, 3)))
    start = float(min(before.min(), after.min()))
    axes.set(xlim=(max(start - 0.06 * (end - start), 0), end), ylim=(0, 104))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} ms")
    axes.xaxis.set_major_locator(_ticker().MaxNLocator(5))
    _plain(axes, "{:g} %", integer=True)
    return _svg(figure, title)


def _plain(axes: Any, form: str, *, integer: bool) -> None:
    axes.tick_params(axis="y", labelsize=8, labelcolor=MUTED, color=MUTED, length=0)
    axes.tick_params(axis="x", labelsize=8, labelcolor=MUTED, color=MUTED, length=0, pad=3)
    axes.yaxis.set_major_formatter(lambda value, _: form.format(value))
    axes.yaxis.set_major_locator(_ticker().MaxNLocator(4, integer=integer))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)


def _pixels(
    colors: Floats, title: str, marked: Marks | None, frame: str, size: tuple[float, float] | None = None
) -> str:
    """Colors (h, w, 3) as they are, one square each; `marked` (rows, columns) frames parts of equal size."""
    height, width, _ = colors.shape
    wide, high = size or (100.0, 100.0 * height / width)
    frames = ""
    if marked is not None:
        across, down = wide / marked.shape[1], high / marked.shape[0]
        line = min(3.2, 0.22 * min(across, down))
        frames = "".join(
            f'<rect x="{column * across + line / 2:.2f}" y="{row * down + line / 2:.2f}" width="{across - line:.2f}" '
            f'height="{down - line:.2f}" fill="none" stroke="{frame}" stroke-width="{line:.2f}"/>'
            for row, column in np.argwhere(marked)
        )
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {wide:g} {high:g}"'
        f' xmlns="http://www.w3.org/2000/svg"><image href="data:image/png;base64,{_png(colors)}" width="{wide:g}"'
        f' height="{high:g}" preserveAspectRatio="none" style="image-rendering: pixelated"/>{frames}</svg>'
    )


def _png(colors: Floats) -> str:
    _matplotlib()
    import matplotlib.image

    target = io.BytesIO()
    pixels = (np.clip(colors, 0, 1) * 255).round().astype(np.uint8)
    matplotlib.image.imsave(target, pixels, format="png", metadata={})
    return base64.b64encode(target.getvalue()).decode()


def _matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EXTRA_MISSING("the page's pictures need matplotlib", "pip install 'atpatch-onnx[report]'") from error


def _figure(width: float, height: float, bottom: float = 0.13) -> tuple[Any, Any]:
    _matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.patch.set_alpha(0)
    left = 0.42 / width
    axes = figure.add_axes((left, bottom, 0.99 - left, 0.97 - bottom))
    axes.patch.set_alpha(0)
    return figure, axes


def _ticker() -> Any:
    import matplotlib.ticker

    return matplotlib.ticker


def _svg(figure: Any, title: str) -> str:
    """The figure as one <svg>, without prologue, metadata or anything that points outside;
    ids are made from the title.
    """
    import matplotlib as mpl

    drawn = io.StringIO()
    # A salt of its own for each picture: ids must not meet those of another picture on the page, nor change from run to
    # run.
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif", "text.parse_math": False}
    ):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bwidth="[^"]*pt" height="[^"]*pt"|height="[^"]*pt" width="[^"]*pt"', "", text, count=1)
    text = re.sub(r' xmlns:xlink="[^"]*"| version="1.1"', "", text).replace("xlink:href", "href")
    text = re.sub(
        r'id="(figure|axes|patch|text|xtick|ytick|line2d|matplotlib\.axis|PolyCollection|QuadMesh)_\d+"', "", text
    )
    for color, variable in STAND_INS.items():
        text = text.replace(color, variable)
    text = re.sub(r"font-family: [^;]*; ", "", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).strip()
