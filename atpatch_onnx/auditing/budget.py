"""The time that the checks that run the model may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..debugset.inversion import Stopped

__all__ = ["Budget", "OutOfTime", "Progress"]

Progress = Callable[[str, int, int], None]
"""Called with the step, how much of it is done, and how much there is."""


class OutOfTime(Stopped):
    """A check has used up its time. Raised by the progress of a `Budget`, so that any search can be stopped."""


@dataclass(frozen=True)
class Budget:
    """Time until a deadline.

    Attributes:
        minutes: given in all, for messages.
        deadline: by `time.monotonic`, seconds.
        progress: what to tell besides.
    """

    minutes: float
    deadline: float
    progress: Progress

    @classmethod
    def of(cls, minutes: float, progress: Progress) -> Budget:
        """A budget that begins now."""
        return cls(minutes, time.monotonic() + 60 * minutes, progress)

    @property
    def left(self) -> float:
        """Seconds, 0 after the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    def part(self, share: float) -> Budget:
        """A share of what is left."""
        return replace(self, deadline=time.monotonic() + share * self.left)

    def __call__(self, step: str, done: int, total: int) -> None:
        """A progress that ends the check at the deadline.

        Raises:
            OutOfTime: after the deadline, unless this step is done.
        """
        self.progress(step, done, total)
        if done < total and not self.left:
            raise OutOfTime(step)
