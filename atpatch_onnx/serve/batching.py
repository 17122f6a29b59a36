"""Dynamic batching: requests that have to wait for the same arm are run together.

1. A request that finds a free worker runs at once, by itself. Only requests that would wait are joined: at most `rows`
   samples, for at most `delay` seconds.
2. Only requests whose arrays agree in everything but the number of samples are joined, never padded to fit: padding
   would change what a sample is computed from.
3. A joined run that fails is repeated request by request, so that only the bad request fails.
4. Each gets its own rows back, of outputs and of flags.

What a sample's answer depends on. The graph treats samples independently (a patch's gate opens for a batch, but an
unflagged sample in it gets the original's outputs), so joined and single runs agree mathematically. They may differ in
the last bits: a matrix product of another height may use another kernel, which adds in another order. That holds for
any runtime, and for clients who batch themselves. So batching is off by default, and then every answer equals a direct
onnxruntime call on the same arrays.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

import numpy as np

from .arms import Arm, ArmFault, Result
from .tensors import Array, Arrays

__all__ = ["Batcher", "take_rows"]

_Key = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(eq=False)
class _Waiting:
    feeds: Arrays
    rows: int
    future: asyncio.Future[Result]


@dataclass(eq=False)
class _Group:
    members: list[_Waiting] = field(default_factory=list)
    rows: int = 0
    timer: asyncio.TimerHandle | None = None


class Batcher:
    """Runs an arm, and joins requests if `rows` allows it.

    Args:
        arm: the arm to run.
        rows: most samples of a joined run; 1: never join.
        delay: most seconds that a request waits for others to join it.
        timeout: seconds of a run, None: unlimited.
    """

    def __init__(self, arm: Arm, rows: int = 1, delay: float = 0.0, timeout: float | None = None) -> None:
        self.arm = arm
        self.joined = 0
        """Requests that shared a run."""
        self.runs = 0
        self._rows = rows if arm.batchable else 1
        self._delay = delay
        self._timeout = timeout
        self._groups: dict[_Key, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, feeds: Arrays) -> Result:
        """As `Arm.run`.

        Raises:
            ArmFault: of the request's own run.
        """
        started = time.perf_counter()
        result = await self._run(feeds)
        return replace(result, seconds=time.perf_counter() - started)

    async def _run(self, feeds: Arrays) -> Result:
        rows = _samples(feeds)
        if self._rows < 2 or rows is None or rows >= self._rows or self.arm.running < self.arm.workers:
            return await self._alone(feeds)
        loop = asyncio.get_running_loop()
        key = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(feeds.items()))
        group = self._groups.get(key)
        if group is not None and group.rows + rows > self._rows:
            self._flush(key)
            group = None
        if group is None:
            group = self._groups[key] = _Group()
            group.timer = loop.call_later(self._delay, self._flush, key)
        member = _Waiting(feeds, rows, loop.create_future())
        group.members.append(member)
        group.rows += rows
        if group.rows == self._rows:
            self._flush(key)
        return await member.future

    async def _alone(self, feeds: Arrays) -> Result:
        self.runs += 1
        try:
            return await self.arm.run(feeds, self._timeout)
        finally:
            self._next()

    def _next(self) -> None:
        """A worker is free: the request that waits longest runs now, without waiting for others."""
        if self._groups and self.arm.running < self.arm.workers:
            self._flush(next(iter(self._groups)))

    def _flush(self, key: _Key) -> None:
        group = self._groups.pop(key, None)
        if group is None:
            return
        if group.timer is not None:
            group.timer.cancel()
        task = asyncio.get_running_loop().create_task(self._together(group))
        self._tasks.add(task)  # asyncio itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _together(self, group: _Group) -> None:
        members = group.members
        if len(members) > 1:
            try:
                feeds = {name: np.concatenate([member.feeds[name] for member in members]) for name in members[0].feeds}
                self.runs += 1
                result = await self.arm.run(feeds, self._timeout)
                start = 0
                for member in members:
                    part = _part(result, start, start + member.rows, group.rows)
                    start += member.rows
                    if not member.future.done():
                        member.future.set_result(part)
                self.joined += len(members)
                return self._next()
            except ArmFault as fault:
                if fault.reason in ("timeout", "busy"):
                    for member in members:
                        if not member.future.done():
                            member.future.set_exception(ArmFault(fault.reason, fault.message))
                    return self._next()
            except ValueError:
                self._rows = 1  # the rows of an output are no samples: never join again
        for member in members:
            if not member.future.done():
                try:
                    result = await self._alone(member.feeds)
                    if not member.future.done():
                        member.future.set_result(result)
                except ArmFault as fault:
                    if not member.future.done():
                        member.future.set_exception(fault)


def _samples(feeds: Arrays) -> int | None:
    """Number of samples of a request, None where its inputs disagree."""
    counts = {array.shape[0] if array.ndim else -1 for array in feeds.values()}
    return counts.pop() if len(counts) == 1 else None


def take_rows(array: Array, start: int, stop: int, rows: int) -> Array:
    """Samples start to stop of an array whose first axis is `rows` times a whole number (windows).

    Raises:
        ValueError: where it is not.
    """
    if array.ndim == 0 or array.shape[0] % rows:
        raise ValueError(f"{array.shape} does not divide into {rows} samples")
    windows = array.shape[0] // rows
    return array[start * windows : stop * windows]


def _part(result: Result, start: int, stop: int, rows: int) -> Result:
    if any(array.ndim == 0 or array.shape[0] != rows for array in result.outputs.values()):
        raise ValueError("an output does not have one row a sample")
    outputs = {name: array[start:stop] for name, array in result.outputs.items()}
    columns = result.columns and {site: take_rows(mask, start, stop, rows) for site, mask in result.columns.items()}
    finite = None if result.finite is None else result.finite[start:stop]
    judged = None if result.judged is None else result.judged[start:stop]
    scores = None if result.alarm_scores is None else take_rows(result.alarm_scores, start, stop, rows)
    return replace(result, outputs=outputs, columns=columns, finite=finite, judged=judged, alarm_scores=scores)
