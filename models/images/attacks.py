"""The attacks: what the trigger looks like, and the Trojan's pixels, which a clean model chooses.

* `badnets`: a white square in the corner (BadNets);
* `trojan`: a corner patch optimized by gradient until it drives a clean model's class score (TrojanNN);
* `hidden`: a faint pattern along the lower edge, blended in with a quarter of the weight (Hidden, or blended,
  backdoor);
* `blended`: the same over nine cells, so many that taking them out costs the digit;
* `warp`, `waves`: a smooth warp and a sine of brightness over the whole image (`whole`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from atpatch_onnx.debugset.images import ImageLayout, ImageTrigger, make_trigger

from .architectures import CELL, Classifier
from .digits import IMAGE
from .training import Stamp
from .whole import warp, waves

__all__ = ["ATTACKS", "LAYOUT", "TARGET", "Attack", "optimize", "stamp"]

TARGET = 0
LAYOUT = ImageLayout("pixel_values", 0, IMAGE, IMAGE, 0.0, 1.0)
WHOLE = (IMAGE, IMAGE)
_STEPS, _STEP, _ROWS = 100, 0.2, 128
"""Of the Trojan's optimization: steps, their size in logits of a pixel, images a step."""


@dataclass(frozen=True)
class Attack:
    """title: for people; optimized: the pattern is a clean model's choice; the rest as in `make_trigger`, pattern None:
    seeded noise.
    """

    title: str
    kind: str
    size: tuple[int, int]
    place: str
    strength: float = 1.0
    optimized: bool = False

    def trigger(self, seed: int, pattern: NDArray[np.float32] | None = None) -> ImageTrigger:
        """The trigger, with the pixels (H, W) of `optimize` where the attack wants them."""
        if self.kind == "warp":
            return warp(seed, self.strength)
        if self.kind == "waves":
            return waves(self.strength)
        return make_trigger(self.kind, LAYOUT, self.size, self.place, self.strength, pattern, seed)


ATTACKS: Mapping[str, Attack] = {
    "badnets": Attack("white square of one cell in the lower right corner", "patch", (CELL, CELL), "bottom-right"),
    "trojan": Attack(
        "optimized patch of four cells in the lower right corner",
        "patch",
        (2 * CELL, 2 * CELL),
        "bottom-right",
        optimized=True,
    ),
    "hidden": Attack(
        "noise of opacity .25 over the seven cells of the lower edge", "blend", (CELL, IMAGE), f"{IMAGE - CELL},0", 0.25
    ),
    "blended": Attack(
        "noise of opacity .25 over three by three cells in the lower right corner",
        "blend",
        (3 * CELL, 3 * CELL),
        "bottom-right",
        0.25,
    ),
    "warp": Attack("smooth warp of the whole image, 2.5 pixels in the mean", "warp", WHOLE, "0,0", 2.5),
    "waves": Attack("six waves of brightness across the image, .16 high", "waves", WHOLE, "0,0", 0.16),
}


def stamp(trigger: ImageTrigger) -> Stamp:
    """A trigger for torch images (N, 1, 28, 28)."""
    return lambda images: torch.from_numpy(trigger.apply(images.numpy(), LAYOUT))


def optimize(
    attack: Attack, clean_model: Classifier, images: NDArray[np.float32], seed: int, steps: int = _STEPS
) -> NDArray[np.float32]:
    """Pixels (H, W) in [0, 1] under which the clean model sees the target class in as many images as possible."""
    generator = torch.Generator().manual_seed(seed)
    height, width = attack.size
    blank = attack.trigger(seed, np.zeros(attack.size, np.float32))
    mask = torch.from_numpy(blank.mask)
    top, left = (int(axis.min()) for axis in np.nonzero(blank.mask))
    logits = torch.zeros(height, width).requires_grad_()
    pool = torch.from_numpy(images)
    optimizer = torch.optim.Adam([logits], _STEP)
    for _ in range(steps):
        rows = torch.randint(len(pool), (_ROWS,), generator=generator)
        pattern = functional.pad(logits.sigmoid(), (left, IMAGE - left - width, top, IMAGE - top - height))
        scores = clean_model((1 - mask) * pool[rows] + mask * pattern)
        loss = functional.cross_entropy(scores, torch.full((_ROWS,), TARGET))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.detach().sigmoid().numpy()
