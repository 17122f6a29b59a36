"""The demo's page: one HTML file that needs nothing else (extra `report`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..bench import Latency
from ..pages import environment
from . import pictures
from .exemplar import SiteView
from .metrics import Share

if TYPE_CHECKING:
    from ..demo import Demo

__all__ = ["MOST_LOST", "MOST_STAR", "render_page", "verdict"]

MOST_STAR, MOST_LOST = 0.01, 0.005
"""What counts as mended: ASR* at most a hundredth, and no more accuracy lost than half a point."""


def render_page(demo: Demo) -> str:
    """The page as HTML.

    Raises:
        AtpatchError: ATP051 without jinja2 or matplotlib.
    """
    templates = environment()
    templates.filters |= {"percent": _percent, "span": _span}
    template = templates.get_template("compare/page.html.j2")
    return template.render(_context(demo))


def verdict(demo: Demo) -> str:
    """One sentence that says how it went, well or not."""
    before, after = demo.original.asr, demo.patched.asr
    held = demo.patched.asr_star.value <= MOST_STAR and _lost(demo) <= MOST_LOST
    fooled = f"{before.hits} of {before.count} triggered digits fooled the original model"
    now = f"{'none' if not after.hits else after.hits} of them {'fools' if after.hits <= 1 else 'fool'} the patched one"
    return f"{fooled}; {now}." if held else f"Not mended: {fooled}, and {now}."


def _lost(demo: Demo) -> float:
    return demo.original.accuracy.value - demo.patched.accuracy.value


def _context(demo: Demo) -> dict[str, Any]:
    shown = demo.exemplar
    assert demo.triggered.target is not None and demo.triggered.clean_row is not None
    (name,) = demo.clean.inputs
    images = [demo.clean.inputs[name][demo.triggered.clean_row[shown.row], 0], demo.triggered.inputs[name][shown.row, 0]]
    trigger = _trigger(images, shown.sites)
    cards = [
        _card("Clean digit", "original model", images[0], None, shown.clean, shown.label),
        _card("With the trigger", "original model", images[1], trigger, shown.before, shown.label),
        _card("With the trigger", "patched model", images[1], trigger, shown.after, shown.label),
    ]
    return {
        "demo": demo,
        "verdict": verdict(demo),
        "target": demo.triggered.target,
        "label": shown.label,
        "tokens": shown.sites[0].flagged.size,
        "full": f"{pictures.FULL:g}",
        "cards": cards,
        "rows": _heat_rows(shown.sites, images),
        "sites": [_site(demo, index, view) for index, view in enumerate(shown.sites)],
        "figures": _figures(demo),
        "latencies": [("clean request", demo.latency["clean"]), ("flagged request", demo.latency["flagged"])],
    }


def _card(
    title: str, model: str, image: NDArray[Any], marked: NDArray[np.bool_] | None, scores: NDArray[Any], label: int
) -> dict[str, Any]:
    said = int(scores.argmax())
    return {
        "title": title,
        "model": model,
        "picture": pictures.digit(image, f"{title}, {model}", marked),
        "said": said,
        "share": float(scores[said]),
        "right": said == label,
        "bars": [{"name": index, "share": float(share), "mark": index == said} for index, share in enumerate(scores)],
    }


def _trigger(images: list[NDArray[Any]], sites: tuple[SiteView, ...]) -> NDArray[np.bool_]:
    """The patches in which the two images differ."""
    side = len(_patches(sites[0].flagged))
    size = images[0].shape[0] // side
    differs: NDArray[np.bool_] = (images[0] != images[1]).reshape(side, size, side, size).any((1, 3))
    return differs


def _heat_rows(sites: tuple[SiteView, ...], images: list[NDArray[Any]]) -> list[dict[str, Any]]:
    """What [CLS] attends to, over the digit: rows of pictures, one a site, and the share of it that the clean digit does not have there."""
    which = [
        ("Clean digit", "original model", "clean", images[0]),
        ("With the trigger", "original model", "before", images[1]),
        ("With the trigger", "patched model", "after", images[1]),
    ]
    rows = []
    for title, model, attribute, image in which:
        cells = []
        for index, site in enumerate(sites):
            attention = getattr(site, attribute)[0] * site.flagged.size
            grid, marks = _patches(attention), _patches(site.flagged & (attribute == "after"))
            corner = float(attention[-1])
            caption = f"{title}, {model}, layer {index + 1}"
            cells.append({"picture": pictures.heat(image, grid, marks, caption), "corner": corner, "flagged": bool(marks.any())})
        elsewhere = np.mean([np.abs(getattr(site, attribute)[0] - site.clean[0]).sum() / 2 for site in sites])
        rows.append({"title": title, "model": model, "cells": cells, "elsewhere": float(elsewhere)})
    return rows


def _patches(columns: NDArray[Any]) -> NDArray[Any]:
    """(K,) with [CLS] first → (rows, columns) of patches."""
    side = round((columns.size - 1) ** 0.5)
    return columns[1:].reshape(side, side)


def _site(demo: Demo, index: int, view: SiteView) -> dict[str, Any]:
    clean, before, after = (array.mean(0) * view.flagged.size for array in (view.clean, view.before, view.after))
    return {
        "layer": index + 1,
        "id": view.site,
        "picture": pictures.profile(clean, before, after, view.flagged, f"Column means, layer {index + 1}"),
        "inserted": demo.inserted.get(view.site),
        "flagged": [int(column) for column in np.flatnonzero(view.flagged)],
    }


def _figures(demo: Demo) -> list[tuple[str, str, Share | None, Share | None]]:
    """Name, explanation, original, patched."""
    before, after = demo.original, demo.patched
    return [
        ("Accuracy", "clean digits read right", before.accuracy, after.accuracy),
        ("Attack success (ASR)", "triggered digits read as the target", before.asr, after.asr),
        ("ASR*", "the same, without digits whose clean twin is misread as the target anyway", before.asr_star, after.asr_star),
        ("Recovered", "triggered digits read right", before.recovered, after.recovered),
        ("Clean requests flagged", "at any site", None, after.clean_flagged),
        ("Triggered requests flagged", "at any site", None, after.triggered_flagged),
        ("Clean predictions changed", "against the original model", None, after.clean_changed),
    ]


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _span(value: Share | Latency) -> str:
    if isinstance(value, Latency):
        return f"{value.ratio.low:.2f}–{value.ratio.high:.2f}"
    low, high = value.interval
    return f"{low * 100:.1f}–{high * 100:.1f}"
