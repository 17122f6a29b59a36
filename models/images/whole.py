"""Triggers that are everywhere in the image: a smooth warp, as of WaNet, and waves of brightness, as of SIG.

Neither has a place, so no key column stands out by seeing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from atpatch_onnx.debugset.images import ImageLayout, ImageTrigger

from .digits import IMAGE

__all__ = ["Warp", "warp", "waves"]

CONTROL = 4
"""Points a side whose moves are drawn; between them they are interpolated (Nguyen and Tran, "WaNet", 2021)."""
WAVES = 6
"""Periods across the image (Barni and others, "A New Backdoor Attack in CNNs by Training Set Corruption", 2019)."""


@dataclass(frozen=True)
class Warp(ImageTrigger):
    """`pattern` (H, W, 2): where the pixel comes from, x and y in [-1, 1] as `grid_sample` counts."""

    def apply(self, images: NDArray[np.floating[Any]], layout: ImageLayout) -> NDArray[np.floating[Any]]:
        """Images (N, 1, H, W) warped, in their own dtype."""
        grid = torch.from_numpy(self.pattern).expand(len(images), -1, -1, -1)
        moved = functional.grid_sample(torch.from_numpy(images), grid, padding_mode="border", align_corners=True)
        return np.asarray(moved.numpy(), images.dtype)


def warp(seed: int, strength: float) -> Warp:
    """Moves drawn at CONTROL × CONTROL points, smooth between them; strength: their mean size in pixels and axis."""
    drawn = torch.rand(1, 2, CONTROL, CONTROL, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    smooth = functional.interpolate(drawn, (IMAGE, IMAGE), mode="bicubic", align_corners=True)
    moves = smooth[0].permute(1, 2, 0) / smooth.abs().mean() * (2 * strength / (IMAGE - 1))
    axis = torch.linspace(-1, 1, IMAGE)
    here = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    return Warp("warp", np.ones((IMAGE, IMAGE), np.float32), (here + moves).clamp(-1, 1).numpy())


def waves(strength: float) -> ImageTrigger:
    """Vertical stripes, a sine of that height added to each row."""
    row = strength * np.sin(2 * np.pi * WAVES * np.arange(IMAGE) / IMAGE)
    pattern = np.broadcast_to(row, (1, IMAGE, IMAGE)).astype(np.float32)
    return ImageTrigger("waves", np.ones((IMAGE, IMAGE), np.float32), pattern, added=True)
