"""Finds a small region that sends samples to a class by itself; the search for the smallest mask then starts there.

A search that starts with a mask over the whole sample often ends at an adversarial perturbation, which every model
has, and misses a backdoor that is a few places wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .masks import Scores, bounds

__all__ = ["GRID", "Cell", "best_cell"]

GRID = 7
"""Cells along an axis of an image; a row of numbers has as many as an image, GRID², at most."""
STEPS, ROUND, KEPT = 12, 4, 1 / 3
"""After every round of steps the best of the cells go on (successive halving, Jamieson and Talwalkar, AISTATS 2016)."""
BATCH = 8
"""Samples for each cell and step."""
ROWS = 32
RATE = 0.3


@dataclass(frozen=True)
class Cell:
    """A region, its pattern, and how often it works.

    Attributes:
        mask: 1 in the region, else 0; 1 long on the channel axis.
        pattern: of a sample's shape, in the data's range.
        success: share of samples that it sends to the class.
    """

    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]
    success: float


def best_cell(
    scores: Scores, samples: NDArray[np.float32], target: int, *, channel_axis: int | None, seed: int
) -> Cell | None:
    """The region of a regular grid that works best, after a few steps on the patterns; None for samples that have no
    grid.

    Args:
        samples, channel_axis: as in `invert_mask`.
    """
    regions = _grid(samples.shape[1:], channel_axis)
    if regions is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    x, masks = torch.from_numpy(samples[:ROWS]), torch.from_numpy(regions)[:, None]
    low, high = bounds(torch.from_numpy(samples), channel_axis)
    raw = torch.zeros((len(masks), 1, *x.shape[1:])).requires_grad_()
    optimizer = torch.optim.Adam([raw], RATE)

    def outcome(rows: Tensor) -> Tensor:
        """Log probabilities (cells, rows, C) with the pattern of each remaining cell in each of the rows."""
        patterns, places = torch.sigmoid(2 * raw[left]) * (high - low) + low, masks[left]
        found = scores(((1 - places) * x[rows] + places * patterns).flatten(0, 1))
        return functional.log_softmax(found, 1).reshape(len(left), len(rows), -1)

    left, worth = torch.arange(len(masks)), torch.zeros(len(masks))
    for step in range(STEPS):
        if step and step % ROUND == 0:
            left = left[worth.argsort(descending=True)[: math.ceil(KEPT * len(left))]]
        worth = outcome(torch.randint(len(x), (BATCH,), generator=generator))[..., target].mean(1)
        optimizer.zero_grad()
        (-worth.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        # Choose by the mean log probability: it still differs between regions that all work every time.
        chances = outcome(torch.arange(len(x)))
        success, best = (chances.argmax(2) == target).float().mean(1), int(chances[..., target].mean(1).argmax())
        pattern = torch.sigmoid(2 * raw[left[best], 0]) * (high - low) + low
    return Cell(regions[int(left[best])], pattern.numpy(), float(success[best]))


def _grid(shape: tuple[int, ...], channel_axis: int | None) -> NDArray[np.float32] | None:
    """(cells, ...) masks of a sample's shape, 1 long on the channel axis."""
    places = [size for axis, size in enumerate(shape) if axis != channel_axis]
    if len(places) not in (1, 2):
        return None
    each = GRID if len(places) == 2 else GRID**2
    index = np.arange(int(np.prod(places))).reshape(places)
    parts = [index]
    for axis in range(len(places)):
        parts = [piece for part in parts for piece in np.array_split(part, min(each, places[axis]), axis)]
    masks = np.stack([np.isin(index, part) for part in parts]).astype(np.float32)
    return masks if channel_axis is None else np.expand_dims(masks, channel_axis + 1)
