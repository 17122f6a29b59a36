"""Pictures for pages: matplotlib figures as inline SVG that takes its colours from the page (extra `report`).

Shapes are drawn in stand-in colours, which then become CSS variables: one picture serves light and dark pages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EXTRA_MISSING

__all__ = ["FULL", "digit", "heat", "profile"]

Floats = NDArray[np.floating[Any]]

STAND_INS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--before)",
    "#040404": "var(--after)",
    "#050505": "var(--flag)",
}
INK, MUTED, BEFORE, AFTER, FLAG = STAND_INS
GLOW = (1.0, 0.58, 0.16)
"""Attention over a digit: amber, which neither white ink nor black paper is."""
DIMMED = 0.55
"""Brightness of the ink under the glow, so that ink is not taken for attention."""
FULL = 4.0
"""Attention, in multiples of uniform, at which the glow is at its brightest."""


def digit(image: Floats, title: str, marked: NDArray[np.bool_] | None = None) -> str:
    """A grey image (h, w) in [0, 1]; patches to be framed in `marked` (rows, columns)."""
    frames = [] if marked is None else _frames(marked, image.shape[0])
    return _pixels(np.repeat(np.asarray(image)[..., None], 3, 2), title, frames, BEFORE)


def heat(image: Floats, attention: Floats, flagged: NDArray[np.bool_], title: str) -> str:
    """Attention over an image.

    Args:
        image: (h, w) in [0, 1].
        attention: (rows, columns) of patches, in multiples of uniform.
        flagged: (rows, columns), patches to be framed.
    """
    zoom = image.shape[0] // attention.shape[0]
    glow = np.kron(np.clip(attention / FULL, 0, 1), np.ones((zoom, zoom)))[..., None]
    blended = (1 - 0.85 * glow) * np.asarray(image)[..., None] * DIMMED + glow * np.array(GLOW)
    return _pixels(np.clip(blended, 0, 1), title, _frames(flagged, image.shape[0]), FLAG)


def profile(clean: Floats, before: Floats, after: Floats, flagged: NDArray[np.bool_], title: str) -> str:
    """Column means of one site, (K,) in multiples of uniform: bars before and after, ticks for the clean twin, flagged columns shaded."""
    figure, axes = _figure(5.2, 1.9)
    place = np.arange(len(before))
    for column in np.flatnonzero(flagged):
        axes.axvspan(column - 0.5, column + 0.5, color=FLAG, alpha=0.14, lw=0)
    axes.bar(place - 0.2, before, 0.38, color=BEFORE)
    axes.bar(place + 0.2, after, 0.38, color=AFTER)
    axes.plot(place, clean, ls="none", marker="_", ms=11, mew=1.8, color=INK)
    axes.axhline(1, color=MUTED, lw=0.8, ls=(0, (3, 3)))
    top = max(float(np.max([clean, before, after])) * 1.22, 2.0)
    for column in np.flatnonzero(flagged):
        axes.text(column, top * 0.97, "flagged", ha="right" if column > len(place) / 2 else "left", va="top", color=FLAG, fontsize=9)
    axes.set(xlim=(-0.7, len(place) - 0.3), ylim=(0, top), xticks=place)
    axes.set_xticklabels(["CLS", *map(str, place[1:])], fontsize=8, color=MUTED)
    axes.tick_params(axis="y", labelsize=8, labelcolor=MUTED, color=MUTED, length=0)
    axes.tick_params(axis="x", length=0, pad=3)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.yaxis.set_major_locator(_ticker().MaxNLocator(4, integer=True))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    return _svg(figure, title)


def _frames(marked: NDArray[np.bool_], height: int) -> list[tuple[int, int, int]]:
    """Left, top and size of marked patches, in pixels."""
    size = height // marked.shape[0]
    return [(int(column) * size, int(row) * size, size) for row, column in np.argwhere(marked)]


def _pixels(colours: NDArray[Any], title: str, frames: Sequence[tuple[int, int, int]], frame_colour: str) -> str:
    figure, axes = _figure(1.6, 1.6)
    height, width, _ = colours.shape
    axes.set_position([0, 0, 1, 1])
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.axis("off")
    axes.pcolormesh(colours, edgecolors="face", linewidth=0.4)
    for x, y, size in frames:
        axes.add_patch(_patches().Rectangle((x + 0.1, y + 0.1), size - 0.2, size - 0.2, fill=False, edgecolor=frame_colour, lw=2.6))
    return _svg(figure, title)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EXTRA_MISSING("the page's pictures need matplotlib", "pip install 'atpatch-onnx[report]'") from error
    figure = Figure(figsize=(width, height))
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0.065, 0.13, 0.925, 0.84))
    axes.patch.set_alpha(0)
    return figure, axes


def _patches() -> Any:
    import matplotlib.patches

    return matplotlib.patches


def _ticker() -> Any:
    import matplotlib.ticker

    return matplotlib.ticker


def _svg(figure: Any, title: str) -> str:
    """The figure as one <svg>, without prologue, metadata or anything that points outside; ids are made from the title."""
    import matplotlib as mpl

    drawn = io.StringIO()
    # A salt of its own for each picture: ids must not meet those of another picture on the page, nor change from run to run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bwidth="[^"]*pt" height="[^"]*pt"|height="[^"]*pt" width="[^"]*pt"', "", text, count=1)
    text = re.sub(r' xmlns:xlink="[^"]*"| version="1.1"', "", text).replace("xlink:href", "href")
    text = re.sub(r'id="(figure|axes|patch|text|xtick|ytick|line2d|matplotlib\.axis|PolyCollection|QuadMesh)_\d+"', "", text)
    for colour, variable in STAND_INS.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font-family: [^;]*; ", "", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1).strip()
