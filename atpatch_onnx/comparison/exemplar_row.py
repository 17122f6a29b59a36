"""The request itself, as the page shows it: an image with its patches, a text with its words, or values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.datasets import Arrays
from .exemplar import MEAN, Exemplar
from .naming import Names

__all__ = ["Word", "differing", "grid_of", "images_of", "shown_columns", "words_of"]

MOST_WORDS = 80
MOST_EXTRA = 6
"""Tokens before the patches of an image: class and register tokens."""


@dataclass(frozen=True)
class Word:
    """A token or a value, whether it differs from the twin's, and whether its column was flagged."""

    text: str
    differs: bool = False
    flagged: bool = False


def words_of(exemplar: Exemplar, version: str, names: Names) -> list[Word]:
    """Tokens where they are known, else values: all of a described table, else those that differ from the twin's."""
    twin = version == "clean"
    words, other = (exemplar.twin_words, exemplar.words) if twin else (exemplar.words, exemplar.twin_words)
    flagged = (
        np.any([view.flagged for view in exemplar.sites if view.flagged.size == len(words)], axis=0) if words else None
    )
    if words:
        kept = shown_columns(exemplar)
        marks = (
            flagged
            if isinstance(flagged, np.ndarray) and not twin and version == "after"
            else np.zeros(len(words), bool)
        )
        fresh = set(other)
        return [
            Word(word.removeprefix("##"), bool(other) and not twin and word not in fresh, bool(marks[place]))
            for place, word in enumerate(words[:MOST_WORDS])
            if place < kept
        ]
    inputs, others = (exemplar.twin, exemplar.inputs) if twin else (exemplar.inputs, exemplar.twin)
    return _fields(inputs, others, names) or _values(inputs, others)


def _fields(inputs: Arrays, others: Arrays, names: Names) -> list[Word]:
    """The fields of a described table; nothing where a place has no name."""
    told = []
    for name, array in inputs.items():
        flat = np.asarray(array).ravel()
        other = np.asarray(others[name]).ravel() if name in others else flat
        for place, value in enumerate(flat):
            text = names.field(name, place, float(value))
            if text is None:
                return []
            told.append(Word(text, bool(value != other[place])))
    return told


def _values(inputs: Arrays, others: Arrays) -> list[Word]:
    told = []
    for name, array in inputs.items():
        flat = np.asarray(array).ravel()
        other = np.asarray(others[name]).ravel() if name in others else flat
        places = np.flatnonzero(flat != other) if len(other) == len(flat) else np.arange(0)
        shown = places if len(places) else np.arange(min(len(flat), 12))
        told += [Word(f"{name}[{place}] = {flat[place]:g}", bool(len(places))) for place in shown[:12]]
        if len(flat) > len(shown[:12]):
            told.append(Word(f"{len(flat) - len(shown[:12])} more of {name}" + (" the same" if len(places) else "")))
    return told


def images_of(exemplar: Exemplar) -> dict[str, NDArray[np.float64]]:
    """ "inputs" and "twin" as (h, w, 3) in [0, 1] on one scale; nothing where the input is no image."""
    found: dict[str, NDArray[np.float64]] = {}
    for kind, inputs in (("inputs", exemplar.inputs), ("twin", exemplar.twin)):
        image = next(
            (
                array
                for array in inputs.values()
                if array.ndim == 3 and array.dtype.kind in "fu" and 3 in _channels(array)
            ),
            None,
        )
        if image is not None:
            axes = _channels(image)
            found[kind] = np.moveaxis(image, 0, -1).astype(float) if axes[0] == 3 else image.astype(float)
    if "inputs" not in found:
        return {}
    low = min(float(image.min()) for image in found.values())
    high = max(float(image.max()) for image in found.values())
    return {
        kind: np.repeat((image - low) / ((high - low) or 1), 3 // image.shape[-1], -1) for kind, image in found.items()
    }


def _channels(array: NDArray[Any]) -> tuple[int, int]:
    """(3, 0) for channels first, (0, 3) for channels last, (0, 0) for no image."""
    first, last = array.shape[0] in (1, 3), array.shape[-1] in (1, 3)
    return (3, 0) if first and min(array.shape[1:]) > 3 else (0, 3) if last and min(array.shape[:2]) > 3 else (0, 0)


def grid_of(exemplar: Exemplar, images: dict[str, Any]) -> tuple[int, int] | None:
    """(tokens before the patches, patches in a row and a column) where all sites look at the patches of a square
    image.
    """
    if not images or not exemplar.sites:
        return None
    columns = {view.flagged.size for view in exemplar.sites}
    if len(columns) != 1:
        return None
    count = columns.pop()
    side = int(count**0.5)
    height, width, _ = images["inputs"].shape
    fits = side > 1 and height == width and height % side == 0 and count - side * side <= MOST_EXTRA
    return (count - side * side, side) if fits else None


def differing(images: dict[str, Any], grid: tuple[int, int]) -> NDArray[np.bool_] | None:
    """The patches in which the two images differ."""
    if "twin" not in images:
        return None
    _, side = grid
    size = images["inputs"].shape[0] // side
    differs = (images["inputs"] != images["twin"]).any(-1)
    return np.asarray(differs.reshape(side, size, side, size).any((1, 3)))


def shown_columns(exemplar: Exemplar) -> int:
    """Columns up to the last that anything attends to: padding is left out."""
    seen = [
        np.flatnonzero(view.before[MEAN] + (view.clean[MEAN] if view.clean is not None else 0))
        for view in exemplar.sites
    ]
    return max((int(places[-1]) + 1 for places in seen if len(places)), default=0)
