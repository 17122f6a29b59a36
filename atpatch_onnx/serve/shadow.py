"""Shadow runs: after the original has answered, the patched arm runs on the same request, from a bounded queue. Pairs
are compared.

1. The queue is bounded in jobs and in bytes. Full: the job is dropped, counted and logged as dropped; the live answer
   never waits.
2. As many jobs run at a time as the arm has workers.
3. At the end, what is queued is still run as long as time is left; the rest is dropped, and logged as that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

import numpy as np

from .tensors import Array, Arrays, TensorSpec

__all__ = ["Shadow", "differences", "predictions", "size_of"]

_logger = logging.getLogger(__name__)

Job = Callable[[], Awaitable[None]]
_MOST_BYTES = 256 * 2**20


class Shadow:
    """The queue, and the tasks that run its jobs.

    Args:
        size: jobs that may wait.
        workers: jobs at a time.
    """

    def __init__(self, size: int, workers: int) -> None:
        self._queue: asyncio.Queue[tuple[Job, Callable[[], None], int]] = asyncio.Queue(size)
        self._workers = workers
        self._bytes = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def start(self) -> None:
        """To be called on the event loop."""
        self._tasks = [asyncio.get_running_loop().create_task(self._work()) for _ in range(self._workers)]

    def offer(self, job: Job, drop: Callable[[], None], size: int) -> None:
        """Queue a job, or call `drop` now, or at the end; it keeps `size` bytes in memory."""
        if self._bytes + size > _MOST_BYTES and self._bytes:
            return drop()
        try:
            self._queue.put_nowait((job, drop, size))
        except asyncio.QueueFull:
            return drop()
        self._bytes += size

    async def close(self, seconds: float) -> None:
        """Run what is queued for at most `seconds`, then drop the rest."""
        try:
            async with asyncio.timeout(seconds):
                await self._queue.join()
        except TimeoutError:
            pass
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()[1]()

    async def _work(self) -> None:
        while True:
            job, drop, size = await self._queue.get()
            try:
                await job()
            except asyncio.CancelledError:
                drop()
                raise
            except Exception:  # a fault of ours must not end shadowing without a word
                _logger.exception("a shadow run failed")
                drop()
            finally:
                self._bytes -= size
                self._queue.task_done()


def predictions(outputs: Mapping[str, Array], scores: TensorSpec | None, samples: int) -> list[int | None] | None:
    """Argmax of the class scores, one a sample, None for a sample with NaN in them (numpy's argmax is the first NaN,
    which would be a class that nobody predicted). None without class scores.
    """
    if scores is None or outputs[scores.name].shape[0] != samples:
        return None
    table = outputs[scores.name]
    labels: list[int | None] = table.argmax(1).tolist()
    for sample in np.flatnonzero(np.isnan(table).any(1)):
        labels[sample] = None
    return labels


def differences(original: Arrays, patched: Arrays, samples: int) -> list[float | None]:
    """Largest |original − patched| of each sample over all float outputs; None where that is no number."""
    worst = np.zeros(samples)
    for name, array in original.items():
        if array.dtype.kind != "f" or array.ndim == 0 or array.shape != patched[name].shape:
            continue
        one, two = (
            side.astype(np.float64).reshape(samples if array.shape[0] == samples else 1, -1)
            for side in (array, patched[name])
        )
        with np.errstate(invalid="ignore"):
            gap = np.where((one == two) | (np.isnan(one) & np.isnan(two)), 0.0, np.abs(one - two))
        worst = np.maximum(worst, gap.max(1, initial=0.0))
    return [float(value) if np.isfinite(value) else None for value in worst]


def size_of(arrays: Iterable[Array]) -> int:
    """Bytes of arrays."""
    return sum(array.nbytes for array in arrays)
