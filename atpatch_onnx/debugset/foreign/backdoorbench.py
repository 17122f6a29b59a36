"""Debugging sets from the images that an attack of BackdoorBench wrote, and their clean twins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import COLUMNS_UNCLEAR, DATA_MALFORMED, FOREIGN_UNREADABLE
from ...inference.datasets import DataSet, Ints, load_dataset
from ..images import Grid, ImageLayout, columns_of, image_layout
from ..request import Request
from ..row_checks import check_labels, check_scale
from ..sets import Anomalous, Built, open_rows, triggered_sets
from ..subject import BATCH, Subject
from ..target import leads_to
from .pairing import with_others
from .pixels import PAIRS, learned_coding, parse_coding, read_pixels
from .record import Stored, images_of, recorded_target, stored_images

__all__ = ["Twins", "backdoorbench_sets", "twins_of"]

SAME_PLACE = 0.5
"""Share of all pixels that any image changes. A trigger that has one place changes most of them in each image."""
ROUNDING = 0.5
"""Bytes; a larger difference is a change."""


def backdoorbench_sets(subject: Subject, request: Request) -> Built:
    """Debugging set and triggered set.

    1. Image `<class>/<index>.png` is the twin of clean row `index`, which must be of that class where rows have labels.
    2. The target is `--target`, else that of the record's log, else the class that the model sends most images to.
       Images of the target class are left out.
    3. At most `rows` images are drawn. Of the clean rows their twins are kept, and as many others at most.
    4. How pixels are coded is learned from those that the trigger leaves as they are, or given (`--pixels`).
    5. Labeled are the columns under the pixels that change: for all images those under any of them where the trigger
       has one place, else for each image its own.

    Raises:
        AtpatchError: ATP098 for the folder; ATP056, ATP060, ATP083, ATP084 and ATP085 as for other images.
    """
    assert request.backdoorbench is not None
    folder = images_of(request.backdoorbench)
    stored = stored_images(folder)
    data = subject.complete(load_dataset(request.data))
    subject.rank_among(data)
    layout = image_layout(data)
    check_scale(subject, data, layout)
    _check_twins(stored, data)
    found = len(stored)
    target = recorded_target(folder) if request.target is None else request.target
    if target is not None:
        others = set(open_rows(np.array([one.label for one in stored]), target).tolist())
        stored = [one for place, one in enumerate(stored) if place in others]
    chosen, kept = _drawn(stored, len(data), request)
    clean = replace(data, inputs=data.feeds(kept), labels=None if data.labels is None else data.labels[kept])
    check_labels(subject, clean)
    rows = np.searchsorted(kept, [one.index for one in chosen])
    twins, facts = twins_of(clean, layout, rows, [one.path for one in chosen], request.pixels)
    if target is None:
        before = clean.feeds(twins.rows)
        answered = subject.predictions(before)
        after = subject.predictions({**before, layout.name: twins.images})
        target = leads_to(answered, after, "the trigger of these images")
        truth = answered if clean.labels is None else clean.labels[twins.rows]
        twins = twins.only(np.asarray(truth != target))
    grid = None if request.patch_size is None else Grid(request.patch_size, request.class_tokens)
    columns, covered = _columns(subject, clean, layout, twins, grid, request.seed)
    labeled = np.asarray(columns.any(1))
    twins, columns = twins.only(labeled), columns[labeled]
    report = {
        "trigger": "backdoorbench",
        "stored": found,
        **facts,
        "unchanged": facts["unchanged"] + int((~labeled).sum()),
        **({} if covered is None else {"covered": np.flatnonzero(covered).tolist()}),
    }
    inputs = {**clean.feeds(twins.rows), layout.name: twins.images}
    return triggered_sets(clean, Anomalous(inputs, columns, twins.rows), target, report)


@dataclass(frozen=True)
class Twins:
    """Images with the trigger, in the shape of the graph's input (M, ...): the rows (M,) of their clean twins, and the
    pixels (M, H, W) in which they differ.
    """

    rows: Ints
    images: NDArray[Any]
    changed: NDArray[np.bool_]

    def only(self, which: NDArray[np.bool_]) -> Twins:
        return Twins(self.rows[which], self.images[which], self.changed[which])


def twins_of(
    clean: DataSet, layout: ImageLayout, rows: Ints, paths: Sequence[Path], coding: str | None
) -> tuple[Twins, dict[str, Any]]:
    """The images in the model's coding, and what to report of them; those that equal their twin are left out."""
    before = _channels_last(clean.inputs[layout.name], layout)
    pixels, size = read_pixels(paths, layout, before.shape[3])
    some = rows[:PAIRS]
    how = learned_coding(pixels[:PAIRS], before[some]) if coding is None else parse_coding(coding, before.shape[3])
    images = np.empty(pixels.shape, before.dtype)
    changed = np.empty(pixels.shape[:3], bool)
    for first in range(0, len(rows), BATCH):  # in parts, as these are numbers of eight bytes
        part = slice(first, first + BATCH)
        clean_part = before[rows[part]]
        other = np.abs(pixels[part] - how.bytes_of(clean_part)) > ROUNDING
        coded = how.values(pixels[part])
        images[part] = np.where(other, np.rint(coded) if before.dtype.kind in "iu" else coded, clean_part)
        changed[part] = other.any(3)
    moved = np.asarray(changed.any((1, 2)))
    if not moved.any():
        raise DATA_MALFORMED("no image differs from its clean row")
    facts: dict[str, Any] = {"unchanged": int((~moved).sum())}
    if size != (layout.height, layout.width):
        facts["resized_from"] = list(size)
    return Twins(rows, _as_given(images, layout), changed).only(moved), facts


def _check_twins(stored: Sequence[Stored], data: DataSet) -> None:
    if (last := stored[-1]).index >= len(data):
        raise FOREIGN_UNREADABLE(
            f"{last.path} is made from clean image {last.index}, and the clean rows end at {len(data) - 1}",
            "give the whole clean data set, in its own order",
        )
    if data.labels is None:
        return
    odd = [one for one in stored if data.labels[one.index] != one.label]
    if odd:
        raise FOREIGN_UNREADABLE(
            f"{len(odd):,} of {len(stored):,} images are of another class than their clean row: {odd[0].path} is of"
            f" class {odd[0].label}, row {odd[0].index} is of class {data.labels[odd[0].index]}",
            "give the clean data set that the images were made from, in its own order",
        )


def _drawn(stored: Sequence[Stored], count: int, request: Request) -> tuple[list[Stored], Ints]:
    """Images to use, and the clean rows to keep, both in order."""
    generator = np.random.default_rng(request.seed)
    places = np.sort(generator.permutation(len(stored))[: request.rows])
    chosen = [stored[place] for place in places]
    return chosen, with_others(np.array([one.index for one in chosen], np.int64), count, generator)


def _channels_last(images: NDArray[Any], layout: ImageLayout) -> NDArray[Any]:
    """(N, H, W, C), whatever the layout."""
    return images[..., None] if layout.channel_axis is None else np.moveaxis(images, layout.channel_axis + 1, 3)


def _as_given(images: NDArray[Any], layout: ImageLayout) -> NDArray[Any]:
    back = images[..., 0] if layout.channel_axis is None else np.moveaxis(images, 3, layout.channel_axis + 1)
    return np.ascontiguousarray(back)


def _columns(
    subject: Subject, clean: DataSet, layout: ImageLayout, twins: Twins, grid: Grid | None, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """(M, K) columns of triggered images, and (K,) the one set of columns where the trigger has one place."""
    union = np.asarray(twins.changed.any(0))
    if np.median(twins.changed.sum((1, 2))) >= SAME_PLACE * union.sum():
        covered = columns_of(subject, clean, layout, union, grid, seed)
        return np.tile(covered, (len(twins.rows), 1)), covered
    if grid is not None:
        return np.stack([columns_of(subject, clean, layout, one, grid, seed) for one in twins.changed]), None
    found = []
    for first in range(0, len(twins.rows), BATCH):
        part = slice(first, first + BATCH)
        before = clean.feeds(twins.rows[part])
        found.append(subject.touched(before, {**before, layout.name: twins.images[part]}))
    columns = np.concatenate(found)
    if not columns.any() or (columns.all() and not twins.changed.all()):
        what = "every column" if columns.any() else "no column"
        raise COLUMNS_UNCLEAR(f"{what} of the first site moves with the pixels that the trigger changes")
    return columns, None
