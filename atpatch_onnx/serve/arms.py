"""An arm: one model in one onnxruntime session, run in its own threads so that it never blocks the event loop.

1. The number of threads is fixed: `workers` runs at a time, `threads` of onnxruntime in each.
2. A run past its time limit is asked to end (`RunOptions.terminate`). Until it ends, its worker counts as hung. When
   all workers hang, further runs are refused at once instead of each waiting for its own time-out.
3. The arm of shadow runs has a low priority: its threads get the time that live requests leave.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rewriters.names import ALARM_SCORE, ENABLED, STEERING, THRESHOLD, columns_output, is_telemetry

from ..errors import ARMS_DIFFER
from ..inference.controls import control_names, required_controls
from ..inference.output_kinds import CLASSES, EMBEDDINGS
from ..inference.sessions import session
from .arm_graph import ArmGraph, read_graph
from .tensors import Array, Arrays, TensorSpec, finite_samples, number_samples, specify

__all__ = ["ORIGINAL", "PATCHED", "Arm", "ArmFault", "ArmName", "Result"]

ArmName = Literal["original", "patched"]
ORIGINAL: ArmName = "original"
PATCHED: ArmName = "patched"

Reason = Literal["timeout", "error", "busy", "memory", "alarm"]

_logger = logging.getLogger(__name__)

_NICE = 10
_FATAL = 4
"""Only fatal messages: the client gets the error, and onnxruntime would also print it, once per request."""
_LONGEST_MESSAGE = 300


class ArmFault(Exception):
    """An arm gave no usable answer: the reason, and onnxruntime's message or the samples with an alarm."""

    def __init__(self, reason: Reason, message: str = "") -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.reason: Reason = reason
        self.message = message


@dataclass(frozen=True, eq=False)
class Result:
    """One run.

    Attributes:
        outputs: what clients may see.
        columns: site id → flagged columns (B, K) bool; None for a graph that does not report flags, or whose patch is
            turned off.
        finite: (B,) bool, samples without NaN or infinity in their outputs; of the patched arm, else None.
        judged: (B,) bool, of the patched arm, else None: samples whose flags are valid. NaN in an attention map is
            above no threshold, so where the outputs are NaN, "not flagged" says nothing.
        alarm_scores: (B,) float32, an alarm above 0 or where it is no finite number; None of a graph without one, or
            whose patch is turned off.
        computed: seconds in onnxruntime.
        seconds: from hand-over to result, including the wait for a worker and for requests to join.
    """

    outputs: Arrays
    columns: Arrays | None
    finite: Array | None
    judged: Array | None
    alarm_scores: Array | None
    computed: float
    seconds: float = 0.0

    @property
    def is_finite(self) -> bool:
        """Whether no output holds NaN or infinity; True where that was not checked."""
        return self.finite is None or bool(self.finite.all())


class Arm:
    """A loaded model.

    Args:
        name: which of the two.
        model: model file, or the graph that was read from one.
        threads: of onnxruntime within a run.
        workers: runs at a time.
        nice: give its threads a low priority.
        output_kind: what the model answers, see `inference.output_kinds`; None: classes, but for outputs that are
            called like an embedding.

    Attributes:
        inputs, outputs: what clients see; flags and runtime controls are not among them.
        sites: ids of the sites whose flags the graph reports.
        untold: why it does not report flags; "" where it does.
        alarm: whether the graph raises alarms; of the patched arm.
        path, sha256, stamped: as in `ArmGraph`.
        controls: overrides of the runtime controls, 0-d arrays; replaced as a whole.
        controllable: whether the graph has runtime controls.

    Raises:
        AtpatchError: ATP001-ATP005 and ATP020 (file), ATP050 and ATP052 (onnxruntime), ATP076 (types).
    """

    def __init__(
        self,
        name: ArmName,
        model: Path | ArmGraph,
        *,
        threads: int = 1,
        workers: int = 1,
        nice: bool = False,
        output_kind: str | None = None,
    ) -> None:
        self.name: ArmName = name
        self._output_kind = output_kind
        graph = read_graph(model) if isinstance(model, Path) else model
        self.path, self.sha256, self.sites, self.untold = graph.path, graph.sha256, graph.sites, graph.untold
        self.stamped = graph.stamped
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, f"arm-{name}", _lower_priority if nice else None)
        if self.untold and name == PATCHED:
            _logger.warning(
                "%s does not report what it flags: %s. Its requests are not in atpatch_flag_rate, which is NaN without"
                " any others.",
                self.path,
                self.untold,
            )
        # Made in the pool: with more than one, onnxruntime's own threads inherit its priority.
        self._session = self._pool.submit(session, graph.model, threads=threads, folder=graph.folder).result()
        self.inputs = specify(v for v in self._session.get_inputs() if v.name not in STEERING)
        self.outputs = specify(v for v in self._session.get_outputs() if not is_telemetry(v.name))
        self.alarm = name == PATCHED and any(v.name == ALARM_SCORE for v in self._session.get_outputs())
        self.controllable = {ENABLED, THRESHOLD} <= control_names(self._session)
        self._required: Arrays = required_controls(self._session)
        self.controls: Arrays = {}
        self.running = 0
        self._hung = 0
        self._names = [spec.name for spec in self.outputs] + [columns_output(site) for site in self.sites]
        self._names += [ALARM_SCORE] * self.alarm

    @property
    def scores(self) -> TensorSpec | None:
        """The output whose argmax is the prediction: the first float output of rank 2 with more than one column; None
        of a model without classes.
        """
        if self._output_kind not in (None, CLASSES):
            return None
        others = EMBEDDINGS if self._output_kind is None else ()
        found = (s for s in self.outputs if s.is_float and len(s.shape) == 2 and s.shape[1] != 1)
        return next((s for s in found if s.name not in others), None)

    @property
    def batchable(self) -> bool:
        """Whether requests may be joined: the first dimension is dynamic in every input and output."""
        return all(spec.batched for spec in (*self.inputs, *self.outputs))

    def samples(self, feeds: Arrays) -> int:
        """Samples in a request; 1 where the first dimension does not count them."""
        return int(next(iter(feeds.values())).shape[0]) if self.batchable and feeds else 1

    @property
    def hung(self) -> int:
        """Runs past their time limit that have not ended yet."""
        return self._hung

    async def run(self, feeds: Arrays, timeout: float | None = None) -> Result:
        """Run the model.

        Args:
            feeds: one array an input.
            timeout: seconds, waiting for a worker included.

        Raises:
            ArmFault: "busy", "timeout", "error", "memory".
        """
        from onnxruntime import RunOptions

        if self._hung >= self.workers:
            raise ArmFault("busy")
        options = RunOptions()
        options.log_severity_level = _FATAL
        self.running += 1
        work = self._pool.submit(self._call, {**feeds, **self._required, **self.controls}, options)
        waiter = asyncio.wrap_future(work)
        waiter.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait((waiter,), timeout=timeout)
        except asyncio.CancelledError:
            self._give_up(work, waiter, options)
            raise
        if not done:
            self._give_up(work, waiter, options)
            raise ArmFault("timeout")
        result: Result = waiter.result()
        return result

    def _call(self, feeds: Arrays, options: Any) -> Result:
        started = time.perf_counter()
        try:
            values = self._session.run(self._names, feeds, options)
        except MemoryError as error:
            raise ArmFault("memory") from error
        except Exception as error:  # onnxruntime's exception classes have no common base class
            message = " ".join(str(error).split())[:_LONGEST_MESSAGE]
            raise ArmFault(
                "memory" if "Failed to allocate" in message or "bad_alloc" in message else "error", message
            ) from error
        outputs = dict(zip(self._names[: len(self.outputs)], values, strict=False))
        # A patch that is turned off has checked nothing: that is not the same as "nothing was flagged".
        enabled = bool(feeds.get(ENABLED, True))
        masks = values[len(self.outputs) :]
        columns = dict(zip(self.sites, masks, strict=False)) if self.sites and enabled else None
        alarm_scores = values[-1] if self.alarm and enabled else None
        finite = judged = None
        if self.name == PATCHED:
            samples = self.samples(feeds)
            finite, judged = finite_samples(outputs, samples), number_samples(outputs, samples)
        return Result(outputs, columns, finite, judged, alarm_scores, time.perf_counter() - started)

    def _ended(self, waiter: asyncio.Future[Any]) -> None:
        self.running -= 1
        if not waiter.cancelled():
            waiter.exception()  # read, so that asyncio does not complain about an exception that nobody waits for

    def _give_up(self, work: Future[Result], waiter: asyncio.Future[Any], options: Any) -> None:
        if work.cancel():
            return
        options.terminate = True
        self._hung += 1

        def returned(_: asyncio.Future[Any]) -> None:
            self._hung -= 1

        waiter.add_done_callback(returned)

    def require_same_signature(self, other: Arm) -> None:
        """Raises ATP075 where the two differ in an input or output."""
        for kind, mine, theirs in (("input", self.inputs, other.inputs), ("output", self.outputs, other.outputs)):
            for one, two in zip(mine, theirs, strict=False):
                if one != two:
                    raise ARMS_DIFFER(
                        f"{kind} {one.name} {one.datatype} {list(one.shape)} against {two.name} {two.datatype}"
                        f" {list(two.shape)}"
                    )
            if len(mine) != len(theirs):
                raise ARMS_DIFFER(f"{len(mine)} {kind}s against {len(theirs)}")

    def set_controls(self, enabled: bool | None, threshold: float | None) -> None:
        """Override the runtime controls from the next run on; None: as in the file."""
        controls: Arrays = {}
        if enabled is not None:
            controls[ENABLED] = np.array(enabled)
        if threshold is not None:
            controls[THRESHOLD] = np.array(threshold, np.float32)
        self.controls = controls


def _lower_priority() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
