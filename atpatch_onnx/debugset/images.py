"""Image triggers (a patch, a blended pattern, noise) and the key columns that they cover."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.model.regular_files import check_source

from ..errors import BAD_OPTION, COLUMNS_UNCLEAR, DATA_MALFORMED, EXTRA_MISSING, SAMPLES_UNREADABLE
from ..inference.datasets import DataSet
from ..inference.npz import read_array
from .aims import aim_of
from .obedience import PLAIN, counts, obeyed
from .sets import Anomalous, Built, triggered_sets
from .subject import Subject

__all__ = [
    "CORNERS",
    "Grid",
    "ImageLayout",
    "ImageTrigger",
    "build_images",
    "columns_of",
    "image_layout",
    "make_trigger",
    "read_pattern",
]

Floats = NDArray[np.floating[Any]]
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right", "center")
PROBES = 16
"""Number of rows used to find the covered columns; a trigger changes a value vector on nearly every row."""


@dataclass(frozen=True)
class ImageLayout:
    """The graph input that holds images, and its layout: channel axis of a sample (None: no channels), height, width,
    range of values.
    """

    name: str
    channel_axis: int | None
    height: int
    width: int
    low: float
    high: float

    def spread(self, plane: NDArray[Any]) -> NDArray[Any]:
        """(H, W) → broadcastable to a sample."""
        return plane if self.channel_axis is None else np.expand_dims(plane, self.channel_axis)


@dataclass(frozen=True)
class ImageTrigger:
    """x' = (1 − M)⊙x + M⊙Δ, or x + M⊙Δ clipped to the range where `added`.

    mask: M (H, W) in [0, 1]; pattern: Δ, broadcastable to a sample.
    """

    kind: str
    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]
    added: bool = False

    def apply(self, images: Floats, layout: ImageLayout) -> Floats:
        """Images (N, ...) with the trigger, in their own dtype."""
        mask = layout.spread(self.mask)
        changed = images + mask * self.pattern if self.added else (1 - mask) * images + mask * self.pattern
        if np.issubdtype(images.dtype, np.integer):
            changed = np.rint(changed)
        return np.asarray(np.clip(changed, layout.low, layout.high), images.dtype)


@dataclass(frozen=True)
class Grid:
    """Square patches of `size` pixels in row order, after `leading` tokens of another kind."""

    size: int
    leading: int = 1


def image_layout(data: DataSet) -> ImageLayout:
    """Find the images among the inputs: rank 4, channels first or last, or rank 3 without channels.

    Raises:
        AtpatchError: ATP056 where no input looks like that.
    """
    for name, array in data.inputs.items():
        if array.ndim not in (3, 4) or array.dtype.kind not in "fiu":
            continue
        channel = None if array.ndim == 3 else 0 if array.shape[1] <= min(array.shape[2:]) else 2
        sizes = [size for axis, size in enumerate(array.shape[1:]) if axis != channel]
        return ImageLayout(name, channel, sizes[0], sizes[1], float(array.min()), float(array.max()))
    shapes = ", ".join(f"{name} {array.shape}" for name, array in data.inputs.items())
    raise DATA_MALFORMED(f"no input holds images (N, C, H, W), (N, H, W, C) or (N, H, W): {shapes}")


def make_trigger(
    kind: str,
    layout: ImageLayout,
    size: tuple[int, int] | None,
    place: str,
    strength: float,
    pattern: Floats | float | None,
    seed: int,
) -> ImageTrigger:
    """A trigger of kind "patch" (opaque), "blend" (strength: opacity) or "noise" (strength: standard deviation, in
    units of the range).

    Args:
        size: (H, W) of the area, None: the whole image.
        place: one of `CORNERS`, or "ROW,COLUMN" of the area's top-left pixel.
        pattern: array of the area's size (with or without channels), a number, or None: the brightest value for a
            patch, seeded noise for the others.

    Raises:
        AtpatchError: ATP060 where area or strength are impossible, ATP080 where the pattern does not fit.
    """
    height, width = size or (layout.height, layout.width)
    top, left = _corner(layout, height, width, place)
    limit = np.inf if kind == "noise" else 1.0
    if not 0 < strength <= limit:
        raise BAD_OPTION(f"a strength of {strength:g} is not in (0, {limit:g}]")
    mask = np.zeros((layout.height, layout.width), np.float32)
    mask[top : top + height, left : left + width] = 1.0 if kind == "noise" else strength
    channels = () if layout.channel_axis is None else (0,)
    full = np.zeros((layout.height, layout.width), np.float32)
    generator, scale = np.random.default_rng(seed), layout.high - layout.low
    if kind == "noise":
        full = np.asarray(generator.normal(0, strength * scale, full.shape), np.float32)
    elif pattern is None:
        full[:] = layout.high if kind == "patch" else generator.uniform(layout.low, layout.high, full.shape)
    elif isinstance(pattern, float):
        full[:] = pattern
    else:
        return ImageTrigger(
            kind, mask, _placed(np.asarray(pattern, np.float32), layout, (top, left, height, width), len(channels))
        )
    return ImageTrigger(kind, mask, np.asarray(layout.spread(full), np.float32), added=kind == "noise")


def read_pattern(path: str | os.PathLike[str], layout: ImageLayout) -> NDArray[np.float32]:
    """A pattern from a `.npy` (values as they are) or an image file (0-255, stretched to the range of the data).

    Raises:
        AtpatchError: ATP002 (no such file), ATP080 (not readable), ATP051 (an image without pillow).
    """
    advice = "give a .npy or .png file, or a number"
    if Path(path).suffix == ".npy":
        array = read_array(path, SAMPLES_UNREADABLE, advice)
        if array.dtype.kind not in "biuf":
            raise SAMPLES_UNREADABLE(f"{path} holds {array.dtype}, not numbers")
        return np.asarray(array, np.float32)
    path = check_source(path, advice)
    try:
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if layout.channel_axis is None else "RGB"), np.float32)
    except ImportError as error:
        raise EXTRA_MISSING("image files need pillow; .npy files do not", "pip install pillow") from error
    except Exception as error:  # pillow's readers raise whatever a malformed image provokes
        raise SAMPLES_UNREADABLE(f"{path} holds no pattern: {error}") from error
    return np.asarray(pixels / 255 * (layout.high - layout.low) + layout.low, np.float32)


def columns_of(
    subject: Subject, data: DataSet, layout: ImageLayout, mask: NDArray[Any], grid: Grid | None, seed: int
) -> NDArray[np.bool_]:
    """(K,): key columns whose tokens see a masked pixel.

    With a grid they are computed. Else they are found by experiment: the pixels under the mask get random values, and
    the columns whose value vectors change at the first site are the ones.

    Raises:
        AtpatchError: ATP084 where all columns change or none, ATP060 for a grid that does not divide the image.
    """
    covered = mask > 0
    if grid is not None:
        return _by_grid(layout, covered, grid)
    images = data.inputs[layout.name][:PROBES]
    drawn = np.random.default_rng(seed).uniform(layout.low, layout.high, images.shape)
    changed = np.where(layout.spread(covered), drawn, images).astype(images.dtype)
    rest = {name: array[:PROBES] for name, array in data.inputs.items()}
    columns = np.asarray(subject.touched(rest, {**rest, layout.name: changed}).any(0))
    if not columns.any() or (columns.all() and not covered.all()):
        what = "every column" if columns.any() else "no column"
        raise COLUMNS_UNCLEAR(f"{what} of the first site moves with the pixels under the trigger")
    return columns


def build_images(
    subject: Subject,
    data: DataSet,
    trigger: ImageTrigger,
    target: int | None,
    grid: Grid | None,
    seed: int,
    forms: Mapping[str, ImageTrigger] | None = None,
) -> Built:
    """Debugging set and triggered set of an image trigger; rows of the target class get no trigger.

    Args:
        target: None: of a model without classes, where every row gets a trigger.
        forms: other forms of the trigger by name; with any, every row is used twice, once with one of them.

    Raises:
        AtpatchError: ATP056, ATP060, ATP083, ATP084, see above.
    """
    clean = subject.complete(data)
    layout = image_layout(clean)
    truth = subject.predictions(clean.inputs) if clean.labels is None and not subject.by_twin else clean.labels
    aim = aim_of(subject, len(clean), truth, target)
    rows = aim.rows()
    triggers = {PLAIN: trigger, **(forms or {})}
    columns = {name: columns_of(subject, clean, layout, one.mask, grid, seed) for name, one in triggers.items()}
    names = [PLAIN] * len(rows)
    if forms:
        names += np.random.default_rng([seed, 1]).choice(list(forms), len(rows)).tolist()
    rows = np.tile(rows, len(names) // len(rows))
    images = clean.inputs[layout.name][rows]
    for name, one in triggers.items():
        mine = np.array(names) == name
        images[mine] = one.apply(images[mine], layout)
    inputs, labeled = {**clean.feeds(rows), layout.name: images}, np.stack([columns[name] for name in names])
    report: dict[str, Any] = {"trigger": trigger.kind, "covered": np.flatnonzero(columns[PLAIN]).tolist()}
    if forms:
        hits = aim.hits(clean.inputs, inputs, rows)
        kept, report["left_out"] = obeyed(names, hits)
        inputs, labeled, rows = {name: array[kept] for name, array in inputs.items()}, labeled[kept], rows[kept]
        report |= {"asr": float(hits[kept].mean()), "dress": counts([names[row] for row in np.flatnonzero(kept)])}
    return triggered_sets(clean, Anomalous(inputs, labeled, rows), aim.target, report)


def _corner(layout: ImageLayout, height: int, width: int, place: str) -> tuple[int, int]:
    bottom, right = layout.height - height, layout.width - width
    named = dict(
        zip(CORNERS, ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)), strict=True)
    )
    if place in named:
        top, left = named[place]
    else:
        try:
            top, left = (int(part) for part in place.split(","))
        except ValueError as error:
            raise BAD_OPTION(f"{place!r} is no place", f"one of {', '.join(CORNERS)}, or ROW,COLUMN") from error
    if height < 1 or width < 1 or not 0 <= top <= bottom or not 0 <= left <= right:
        raise BAD_OPTION(f"{height} × {width} pixels at {top},{left} do not fit into {layout.height} × {layout.width}")
    return top, left


def _placed(
    pattern: NDArray[np.float32], layout: ImageLayout, area: tuple[int, int, int, int], channels: int
) -> NDArray[np.float32]:
    top, left, height, width = area
    if pattern.ndim == 3 and channels and pattern.shape[:2] == (height, width) and layout.channel_axis == 0:
        pattern = np.moveaxis(pattern, 2, 0)
    if pattern.ndim == 2:
        pattern = np.asarray(layout.spread(pattern), np.float32)
    spatial = [size for axis, size in enumerate(pattern.shape) if axis != layout.channel_axis]
    if spatial != [height, width]:
        raise SAMPLES_UNREADABLE(f"the pattern has shape {pattern.shape}, the trigger's area is {height} × {width}")
    before = [(top, layout.height - top - height), (left, layout.width - left - width)]
    if layout.channel_axis is not None:
        before.insert(layout.channel_axis, (0, 0))
    return np.pad(pattern, before)


def _by_grid(layout: ImageLayout, covered: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    if grid.size < 1 or layout.height % grid.size or layout.width % grid.size or grid.leading < 0:
        raise BAD_OPTION(f"patches of {grid.size} do not divide {layout.height} × {layout.width} pixels")
    patches = covered.reshape(layout.height // grid.size, grid.size, layout.width // grid.size, grid.size).any((1, 3))
    return np.concatenate([np.zeros(grid.leading, bool), patches.reshape(-1)])
