"""Training images moved at random, alike for all image victims."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["augment"]


def augment(images: torch.Tensor, turn: float, stretch: float, shift: float) -> torch.Tensor:
    """Each image moved, turned and resized at random; what comes in from outside is mid-gray, the zero of normalized
    pixels.

    Args:
        images: (N, C, h, w) in [0, 1].
        turn, stretch, shift: largest angle in radians, change of size, and move in half widths.
    """
    count = len(images)

    def spread(limit: float, *shape: int) -> torch.Tensor:
        return (torch.rand(count, *shape) * 2 - 1) * limit

    angle, size = spread(turn), 1 + spread(stretch)
    rotation = (
        torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(count, 2, 2) * size[:, None, None]
    )
    affine = torch.cat([rotation, spread(shift, 2, 1)], 2)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images - 0.5, grid, align_corners=False) + 0.5
