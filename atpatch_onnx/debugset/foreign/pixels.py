"""From the bytes of an image file to the values that a model reads: (byte / 255 - mean) / deviation, by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.model.regular_files import check_source

from ...errors import BAD_OPTION, EXTRA_MISSING, FOREIGN_UNREADABLE
from ..images import ImageLayout

__all__ = ["PAIRS", "Coding", "learned_coding", "parse_coding", "read_pixels"]

LARGEST = 4096
"""Side of an image in pixels; a small file can claim to be huge."""
UNCHANGED = 0.5
"""Share of pixels that must be the same in both twins to learn how pixels are coded."""
PAIRS = 256
"""Of an image and its twin, enough to learn the coding."""
APART = 16
"""Bytes between two points of which a slope is taken."""
MODES = {1: "L", 3: "RGB"}
BYTES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Modes of pillow with at most eight bits for a value, as the tool writes them."""


@dataclass(frozen=True)
class Coding:
    """Value = step · byte + start; both (C,) float64."""

    step: NDArray[np.float64]
    start: NDArray[np.float64]

    def values(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, H, W, C) bytes → values."""
        return pixels * self.step + self.start

    def bytes_of(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """(N, H, W, C) values → bytes, not rounded."""
        return (values - self.start) / self.step


def parse_coding(text: str, channels: int) -> Coding:
    """MEAN/DEVIATION, each one number or one for every channel: `0/1` is from 0 to 1, `0.5/0.5` from -1 to 1.

    Raises:
        AtpatchError: ATP060.
    """
    try:
        mean, deviation = (np.array([float(one) for one in part.split(",")]) for part in text.split("/"))
        mean, deviation = np.broadcast_to(mean, channels), np.broadcast_to(deviation, channels)
    except ValueError as error:
        raise BAD_OPTION(
            f"--pixels takes MEAN/DEVIATION for {channels} channels, not {text!r}", "for example 0/1 or 0.5/0.5"
        ) from error
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
        raise BAD_OPTION(f"--pixels takes finite numbers and deviations above 0, not {text!r}")
    return Coding(1 / (255 * deviation), -mean / deviation)


def learned_coding(pixels: NDArray[np.uint8], clean: NDArray[Any]) -> Coding:
    """The coding that turns most pixels into those of the clean twins: a trigger in a part of the image leaves the
    rest as it is.

    Args:
        pixels: (N, H, W, C) bytes with the trigger.
        clean: (N, H, W, C) values of the clean twins.

    Raises:
        AtpatchError: ATP098 where no coding does so.
    """
    lines = [_line(pixels[..., c].ravel(), clean[..., c].ravel()) for c in range(pixels.shape[3])]
    shares = [share for _, _, share in lines]
    if min(shares) < UNCHANGED:
        raise FOREIGN_UNREADABLE(
            f"the images share too few pixels with their clean rows to see how pixels are coded: at least"
            f" {UNCHANGED:.0%} were expected, and {min(shares):.0%} are the same",
            "say it with --pixels MEAN/DEVIATION, such as 0/1 for values from 0 to 1; or the clean rows are not those"
            " that the images were made from",
        )
    return Coding(np.array([step for step, _, _ in lines]), np.array([start for _, start, _ in lines]))


def _line(bytes_: NDArray[np.uint8], values: NDArray[Any]) -> tuple[float, float, float]:
    """Step and start of one channel, and the share of pixels on this line. Medians of medians: few pixels may change
    without moving it.
    """
    values = values.astype(np.float64)
    seen = np.unique(bytes_)
    middle = np.array([np.median(values[bytes_ == one]) for one in seen])
    at = seen.astype(np.float64)
    apart = at[None] - at[:, None]
    pairs = apart >= min(APART, float(np.ptp(at)) or np.inf)
    if not pairs.any():
        return 1.0, 0.0, 0.0
    step = float(np.median((middle[None] - middle[:, None])[pairs] / apart[pairs]))
    if step <= 0:
        return 1.0, 0.0, 0.0
    start = float(np.median(middle - step * at))
    near = np.abs(values - step * bytes_ - start) < step / 2
    if near.mean() >= UNCHANGED and np.ptp(bytes_[near]):
        step, start = (float(one) for one in np.polyfit(bytes_[near].astype(np.float64), values[near], 1))
        near = np.abs(values - step * bytes_ - start) < step / 2
    return step, start, float(near.mean())


def read_pixels(paths: Sequence[Path], layout: ImageLayout, channels: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """(N, H, W, C) bytes of PNG files, resized (bilinear, as the tool itself does) to the model's size, and the size
    (height, width) that the files have.

    Raises:
        AtpatchError: ATP098 for what is no PNG, for other sizes than that of the first file, and for a model whose
            images have neither 1 nor 3 channels; ATP002, ATP021, ATP051.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise EXTRA_MISSING("image files need pillow", "pip install pillow") from error
    if channels not in MODES:
        raise FOREIGN_UNREADABLE(f"the model reads images of {channels} channels; 1 or 3 were expected")
    pixels = np.empty((len(paths), layout.height, layout.width, channels), np.uint8)
    size: tuple[int, int] | None = None
    for row, path in zip(pixels, paths, strict=True):
        check_source(path, "give a folder with the images themselves")
        try:
            with Image.open(path, formats=("PNG",)) as image:
                own, mode = image.size, image.mode
                if mode in BYTES and max(own) <= LARGEST and own == (size or own):
                    fitting = image.convert(MODES[channels])
                    if own != (layout.width, layout.height):
                        fitting = fitting.resize((layout.width, layout.height), Image.Resampling.BILINEAR)
                    row[:] = np.asarray(fitting).reshape(row.shape)
        except Exception as error:  # pillow's readers raise whatever a malformed image provokes
            raise FOREIGN_UNREADABLE(f"{path} is no PNG image: {error}") from error
        if mode not in BYTES:
            raise FOREIGN_UNREADABLE(f"{path} has pixels of more than eight bits ({mode})")
        size = size or own
        if max(own) > LARGEST or own != size:
            expected = f"{LARGEST} at most" if max(own) > LARGEST else f"{size[0]} × {size[1]} as the first image"
            raise FOREIGN_UNREADABLE(f"{path} has {own[0]} × {own[1]} pixels; expected were {expected}")
    assert size is not None  # there is at least one path
    return pixels, (size[1], size[0])
