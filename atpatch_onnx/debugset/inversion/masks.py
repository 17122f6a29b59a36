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

__all__ = ["MaskSearch", "MaskTrigger", "Schedule", "Scores", "bounds"]

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


class MaskSearch:
    """A search for the smallest mask, with its pattern, that sends samples to the target class. It can go on where it
    ended, and keeps no samples meanwhile.

    Args:
        samples: (N, ...), none of the target class; their range per channel bounds the pattern.
        channel_axis: axis of a sample along which the mask is the same; None: every entry has its own.
        schedule: all but its number of steps.
        start: mask of zeros and ones, and pattern, to start from; None: a random start.
    """

    def __init__(
        self,
        samples: NDArray[np.float32],
        target: int,
        *,
        channel_axis: int | None,
        schedule: Schedule,
        seed: int,
        start: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    ) -> None:
        self._target, self._schedule, self._done = target, schedule, 0
        self._generator = torch.Generator().manual_seed(seed)
        x = torch.from_numpy(samples)
        self._low, self._high = bounds(x, channel_axis)
        if start is None:
            mask_shape = [1 if axis == channel_axis else size for axis, size in enumerate(x.shape[1:])]
            shapes = (mask_shape, list(x.shape[1:]))
            drawn = (torch.randn(shape, generator=self._generator) for shape in shapes)
            self._parameters = [values.mul_(0.1).requires_grad_() for values in drawn]
        else:
            mask, pattern = (torch.from_numpy(array) for array in start)
            self._parameters = _start_from(mask, pattern, self._low, self._high)
        self._optimizer = torch.optim.Adam(self._parameters, schedule.rate, betas=(0.5, 0.9))
        self._weighing = _Weighing(schedule)

    def run(
        self,
        scores: Scores,
        samples: NDArray[np.float32],
        steps: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> MaskTrigger:
        """The trigger after so many steps, those of earlier calls included.

        Args:
            samples: the same in all calls.
        """
        x, schedule, weighing = torch.from_numpy(samples), self._schedule, self._weighing
        labels = torch.full((schedule.batch,), self._target)
        while self._done < steps and not weighing.over:
            rows = torch.randint(len(x), (schedule.batch,), generator=self._generator)
            mask, pattern = self._current()
            outcome = scores((1 - mask) * x[rows] + mask * pattern)
            loss = functional.cross_entropy(outcome, labels) + weighing.weight * mask.sum()
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            weighing.hits.append(float((outcome.argmax(1) == self._target).float().mean()))
            self._done += 1
            if self._done % schedule.check == 0:
                progress(self._done, steps)
                weighing.check(mask.detach(), pattern.detach())
        mask, pattern = self._current() if weighing.best is None else weighing.best[1:]
        return _sparse(scores, x, self._target, mask.detach(), pattern.detach(), schedule)

    def _current(self) -> tuple[Tensor, Tensor]:
        mask, level = (torch.tanh(parameter) / (2 - EPSILON) + 0.5 for parameter in self._parameters)
        return mask, level * (self._high - self._low) + self._low


def _start_from(opacity: Tensor, pattern: Tensor, low: Tensor, high: Tensor) -> list[Tensor]:
    """Parameters of a given mask and pattern, with gradients everywhere."""
    level = (pattern - low) / (high - low).clamp_min(EPSILON)
    shares = (opacity * (STRONG - FAINT) + FAINT, level.clamp(FAINT, 1 - FAINT))
    return [torch.atanh((2 - EPSILON) * (share - 0.5)).requires_grad_() for share in shares]


class _Weighing:
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

    reached = success(top(most))
    if reached < floor:
        least = most
    while least < most:
        middle = (least + most) // 2
        if (found := success(top(middle))) >= floor:
            most, reached = middle, found
        else:
            least = middle + 1
    kept = top(most)
    return MaskTrigger(kept.numpy(), pattern.numpy(), float(kept.sum()), reached)
