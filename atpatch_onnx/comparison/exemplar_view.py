"""The row that shows best what a patch does, for the page: the models' answers and attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import pictures
from .exemplar import MEAN, PROBE, Exemplar, SiteView, softmax
from .exemplar_row import Word, differing, grid_of, images_of, shown_columns, words_of
from .naming import Names

__all__ = ["Bar", "Card", "HeatRow", "Shown", "show"]

MOST_BARS = 10
MOST_PROFILES = 6


@dataclass(frozen=True)
class Bar:
    """A class and its probability."""

    name: str
    share: float
    said: bool


@dataclass(frozen=True)
class Card:
    """One model's answer to one version of the row; `right` is None where the truth is not known."""

    title: str
    model: str
    picture: str | None
    words: Sequence[Word]
    said: str | None
    share: float
    right: bool | None
    bars: Sequence[Bar]


@dataclass(frozen=True)
class HeatRow:
    """Pictures of all sites for one card; `elsewhere` is the share of attention that the twin does not have there."""

    title: str
    model: str
    pictures: Sequence[tuple[str, bool]]
    elsewhere: float | None


@dataclass(frozen=True)
class Shown:
    """What the page shows of the row.

    Attributes:
        cards: answers, the twin's first.
        rows: attention; one picture a site over an image, else one strip with a row a site.
        over_image: which of the two `rows` holds.
        profiles: site, picture; those with flags first.
        columns: number of key columns without padding.
        left_out: sites without a profile.
        caption: which row, and why this one.
        ticks: whether profiles also show the twin.
    """

    caption: str
    cards: Sequence[Card]
    rows: Sequence[HeatRow] = ()
    over_image: bool = False
    profiles: Sequence[tuple[str, str]] = ()
    wide: bool = False
    columns: int = 0
    labels: Sequence[str] = ()
    sites: Sequence[str] = ()
    left_out: int = 0
    redistributed: bool = False
    ticks: bool = False


def show(exemplar: Exemplar, names: Names) -> Shown:
    """Lay the row out."""
    images = images_of(exemplar)
    grid = grid_of(exemplar, images)
    versions = _versions(exemplar, names)
    cards = [_card(exemplar, names, images, grid, *version) for version in versions]
    if not exemplar.sites:
        return Shown(_caption(exemplar, names), cards)
    count = shown_columns(exemplar)
    labels = _labels(exemplar, names, grid, count)
    rows = [_heat_row(exemplar, images, grid, count, *version) for version in versions]
    flagged_first = sorted(exemplar.sites, key=lambda view: not view.flagged.any())[:MOST_PROFILES]
    kept = [view for view in exemplar.sites if view in flagged_first]
    wide = count > 24
    return Shown(
        _caption(exemplar, names),
        cards,
        rows,
        grid is not None,
        [(view.site, _profile(exemplar, view, count, labels, wide)) for view in kept],
        wide,
        count,
        labels,
        [view.site for view in exemplar.sites],
        len(exemplar.sites) - len(kept),
        exemplar.redistributed,
        bool(exemplar.twin) and _aligned(exemplar),
    )


Version = tuple[str, str, str]
"""Attribute of the views, title, model."""


def _versions(exemplar: Exemplar, names: Names) -> list[Version]:
    titles = {
        "triggered": ("Without the trigger", "With the trigger"),
        "flips": ("As it is", f"With another {names.attribute}" if names.attribute else "Attribute flipped"),
        "clean": ("", "The row"),
    }
    twin, here = titles[exemplar.chosen.set]
    first = [("clean", twin, "original model")] if exemplar.chosen.twin is not None else []
    return [*first, ("before", here, "original model"), ("after", here, "patched model")]


def _caption(exemplar: Exemplar, names: Names) -> str:
    chosen = exemplar.chosen
    label = "" if exemplar.label is None else f", of {names.class_of(exemplar.label)}"
    why = {
        "triggered": "the one that the patch moves furthest from the attack's target",
        "flips": "of the rows that stood out from their group, no longer do and get the right class, the one that moved"
        " furthest"
        if exemplar.label is not None and exemplar.after is not None and exemplar.after.argmax() == exemplar.label
        else "the one that stood out furthest from its group and no longer does",
        "clean": "the one that the patch moves furthest",
    }[chosen.set]
    where = {"triggered": "triggered", "flips": "flip", "clean": "clean"}[chosen.set]
    return f"Row {chosen.row} of the {where} set{label}: {why}."


def _card(
    exemplar: Exemplar,
    names: Names,
    images: dict[str, Any],
    grid: tuple[int, int] | None,
    version: str,
    title: str,
    model: str,
) -> Card:
    scores = getattr(exemplar, version)
    bars: list[Bar] = []
    said, share, right = None, 0.0, None
    if scores is not None:
        likely = _probabilities(scores)
        said = int(likely.argmax())
        share = float(likely[said])
        right = None if exemplar.label is None else said == exemplar.label
        shown = np.arange(len(likely)) if len(likely) <= MOST_BARS else np.sort(np.argsort(-likely)[:MOST_BARS])
        bars = [Bar(names.label(int(name)), float(likely[name]), int(name) == said) for name in shown]
    drawn = None
    if images:
        image = images["twin" if version == "clean" else "inputs"]
        marked = None if version == "clean" or grid is None else differing(images, grid)
        drawn = pictures.picture(image, f"{title}, {model}", marked)
    words = () if images else words_of(exemplar, version, names)
    return Card(title, model, drawn, words, None if said is None else names.label(said), share, right, bars)


def _probabilities(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Some graphs give probabilities instead of logits."""
    finished = bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-3
    return scores if finished else softmax(scores)


def _labels(exemplar: Exemplar, names: Names, grid: tuple[int, int] | None, count: int) -> list[str]:
    if exemplar.words:
        return [*exemplar.words[:count], *("" for _ in range(count - len(exemplar.words)))]
    if grid is not None:
        extra = grid[0]
        return ["CLS" if place == 0 else f"t{place}" for place in range(extra)] + [
            str(place) for place in range(1, count - extra + 1)
        ]
    return [names.token(place) for place in range(count)]


def _heat_row(
    exemplar: Exemplar,
    images: dict[str, Any],
    grid: tuple[int, int] | None,
    count: int,
    version: str,
    title: str,
    model: str,
) -> HeatRow:
    views = [view for view in exemplar.sites if getattr(view, version) is not None]
    drawn: list[tuple[str, bool]] = []
    if grid is not None:
        extra, side = grid
        image = images.get("twin" if version == "clean" else "inputs", images["inputs"])
        for view in views:
            attention = getattr(view, version)[PROBE] * view.flagged.size
            marks = (view.flagged & (version == "after"))[extra:].reshape(side, side)
            drawn.append(
                (
                    pictures.heat(
                        image, attention[extra:].reshape(side, side), marks, f"{title}, {model}, {view.site}"
                    ),
                    bool(marks.any()),
                )
            )
    else:
        attention = np.stack([_of(getattr(view, version)[PROBE], count) * _seen(view) for view in views])
        marks = np.stack([_of(view.flagged, count) & (version == "after") for view in views])
        drawn.append((pictures.strip(attention, marks, f"{title}, {model}"), bool(marks.any())))
    apart = [
        np.abs(getattr(view, version)[PROBE] - view.clean[PROBE]).sum() / 2 for view in views if view.clean is not None
    ]
    elsewhere = float(np.mean(apart)) if apart and version != "clean" and _aligned(exemplar) else None
    return HeatRow(title, model, drawn, elsewhere)


def _aligned(exemplar: Exemplar) -> bool:
    """Whether a column means the same in both versions: an inserted word moves later ones, so the lengths differ."""
    tokens = [
        (array, exemplar.twin[name])
        for name, array in exemplar.inputs.items()
        if name in exemplar.twin and array.dtype.kind in "iu"
    ]
    return all(
        one.shape == other.shape
        and (
            (moved := (one != other).sum()) <= 1
            or (moved <= one.size / 4 and np.count_nonzero(one) == np.count_nonzero(other))
        )
        for one, other in tokens
    )


def _seen(view: SiteView) -> int:
    """Columns that take part, over which even attention would spread."""
    return max(int((view.before[MEAN] > 0).sum()), 1)


def _of(array: NDArray[Any], count: int) -> NDArray[Any]:
    """The first columns; sites over fewer columns are filled up."""
    return array[:count] if len(array) >= count else np.pad(array, (0, count - len(array)))


def _profile(exemplar: Exemplar, view: SiteView, count: int, labels: Sequence[str], wide: bool) -> str:
    scale = _seen(view)
    here = min(count, view.flagged.size)
    clean = view.clean[MEAN][:here] * scale if view.clean is not None and _aligned(exemplar) else None
    before, after = (array[MEAN][:here] * scale for array in (view.before, view.after))
    return pictures.profile(
        clean, before, after, view.flagged[:here], f"Column means, {view.site}", labels[:here], wide
    )
