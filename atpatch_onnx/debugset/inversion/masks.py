"""Trigger inversion on inputs of floats, as in Neural Cleanse (Wang et al., IEEE S&P 2019): x' = (1 − M)⊙x + M⊙Δ with
the smallest mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

__all__ = ["MaskTrigger", "Schedule", "Scores", "bounds", "invert_mask"]

Floats = NDArray[np.floating[Any]]
Scores = Callable[[Tensor], Tensor]
"""Inputs (B, ...) → class scores (B, C), differentiable."""

EPSILON = 1e-6
FAINT, STRONG = 0.01, 0.95
"""Opacity outside and inside a given start mask: not 0 and 1, so that gradients reach every place."""
NEGLIGIBLE = 0.02
"""Mask entries below this are not part of the trigger; the optimizer has only not finished removing them."""


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to search.

    The weight λ of ‖M‖₁ starts at `weight`, grows by `factor` after `patience` checks in a row at `wanted` success, and
    shrinks by factor^1.5 after as many below it. A check looks back over `check` steps; the search ends after `stall`
    checks without a smaller mask.
    """

    steps: int = 600
    batch: int = 32
    check: int = 10
    rate: float = 0.1
    weight: float = 1e-3
    factor: float = 1.5
    patience: int = 2
    stall: int = 20
    wanted: float = 0.99


@dataclass(frozen=True)
class MaskTrigger:
    """An inverted trigger.

    Attributes:
        mask: opacity in [0, 1] over a sample's places, 1 long on the channel axis; 0 where the trigger is not.
        pattern: of a sample's shape, in the data's range.
        norm: ‖M‖₁ in places.
        success: share of samples it sends to the target class.
    """

    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]
    norm: float
    success: float

    def apply(self, samples: Floats) -> NDArray[np.float32]:
        """x' for samples (N, ...)."""
        return np.asarray((1 - self.mask) * samples + self.mask * self.pattern, np.float32)


def invert_mask(
    scores: Scores,
    samples: NDArray[np.float32],
    target: int,
    *,
    channel_axis: int | None,
    schedule: Schedule,
    seed: int,
    start: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MaskTrigger:
    """The smallest mask, with its pattern, that sends samples to the target class.

    Args:
        samples: (N, ...), none of the target class; their range per channel bounds the pattern.
        channel_axis: axis of a sample along which the mask is the same; None: every entry has its own.
        start: mask of zeros and ones, and pattern, to start from; None: a random start.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(samples)
    low, high = bounds(x, channel_axis)
    if start is None:
        mask_shape = [1 if axis == channel_axis else size for axis, size in enumerate(x.shape[1:])]
        shapes = (mask_shape, list(x.shape[1:]))
        parameters = [torch.randn(shape, generator=generator).mul_(0.1).requires_grad_() for shape in shapes]
    else:
        parameters = _start_from(torch.from_numpy(start[0]), torch.from_numpy(start[1]), low, high)
    optimizer = torch.optim.Adam(parameters, schedule.rate, betas=(0.5, 0.9))
    labels = torch.full((schedule.batch,), target)
    search = _Search(schedule)

    def current() -> tuple[Tensor, Tensor]:
        mask, level = (torch.tanh(parameter) / (2 - EPSILON) + 0.5 for parameter in parameters)
        return mask, level * (high - low) + low

    for step in range(1, schedule.steps + 1):
        rows = torch.randint(len(x), (schedule.batch,), generator=generator)
        mask, pattern = current()
        outcome = scores((1 - mask) * x[rows] + mask * pattern)
        loss = functional.cross_entropy(outcome, labels) + search.weight * mask.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        search.hits.append(float((outcome.argmax(1) == target).float().mean()))
        if step % schedule.check:
            continue
        progress(step, schedule.steps)
        search.check(mask.detach(), pattern.detach())
        if search.over:
            break
    mask, pattern = current() if search.best is None else search.best[1:]
    return _sparse(scores, x, target, mask.detach(), pattern.detach(), schedule)


def _start_from(opacity: Tensor, pattern: Tensor, low: Tensor, high: Tensor) -> list[Tensor]:
    """Parameters of a given mask and pattern, with gradients everywhere."""
    level = (pattern - low) / (high - low).clamp_min(EPSILON)
    shares = (opacity * (STRONG - FAINT) + FAINT, level.clamp(FAINT, 1 - FAINT))
    return [torch.atanh((2 - EPSILON) * (share - 0.5)).requires_grad_() for share in shares]


class _Search:
    """The weight of the mask's size, check by check, and the best trigger so far; see `Schedule`."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.weight = schedule.weight
        self.hits: list[float] = []
        self.best: tuple[float, Tensor, Tensor] | None = None
        self._up = self._down = self._stalled = 0

    @property
    def over(self) -> bool:
        return self.best is not None and self._stalled >= self._schedule.stall

    def check(self, mask: Tensor, pattern: Tensor) -> None:
        """Judge the hits since the last check, and set the weight by them."""
        schedule = self._schedule
        success, norm = float(np.mean(self.hits)), float(mask.sum())
        self.hits, self._stalled = [], self._stalled + 1
        if success >= schedule.wanted:
            self._up, self._down = self._up + 1, 0
            if self.best is None or norm < self.best[0]:
                self._stalled = 0 if self.best is None or norm < 0.99 * self.best[0] else self._stalled
                self.best = (norm, mask.clone(), pattern.clone())
        else:
            self._up, self._down = 0, self._down + 1
        if self._up >= schedule.patience:
            self.weight, self._up = self.weight * schedule.factor, 0
        elif self._down >= schedule.patience:
            self.weight, self._down = self.weight / schedule.factor**1.5, 0


def bounds(x: Tensor, channel_axis: int | None) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of samples (N, ...), per channel, or per entry where there are no channels; both
    broadcast to a sample.
    """
    axes = [0] if channel_axis is None else [axis for axis in range(x.ndim) if axis != channel_axis + 1]
    return x.amin(axes, keepdim=True)[0], x.amax(axes, keepdim=True)[0]


def _sparse(scores: Scores, x: Tensor, target: int, mask: Tensor, pattern: Tensor, schedule: Schedule) -> MaskTrigger:
    """The trigger without its faintest places: as many are removed as possible without losing success."""

    def success(kept: Tensor) -> float:
        with torch.no_grad():
            found = [scores((1 - kept) * part + kept * pattern).argmax(1) == target for part in torch.split(x, 64)]
        return float(torch.cat(found).float().mean())

    order = mask.reshape(-1).sort(descending=True)
    full = success(mask)
    floor = min(schedule.wanted, full)
    least, most = 1, max(1, int((order.values > NEGLIGIBLE).sum()))

    def top(count: int) -> Tensor:
        return torch.where(mask >= order.values[count - 1], mask, torch.zeros(()))

    if success(top(most)) < floor:
        least = most
    while least < most:
        middle = (least + most) // 2
        if success(top(middle)) >= floor:
            most = middle
        else:
            least = middle + 1
    kept = top(most)
    return MaskTrigger(kept.numpy(), pattern.numpy(), float(kept.sum()), success(kept))
