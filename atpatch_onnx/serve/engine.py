"""The two arms as one model: which arm answers, what happens when it fails, what is compared and logged.

1. While the kill switch is on, the original answers everything.
2. When a patched run times out or fails, the original answers, which is counted as a fallback. With `--fallback error`
   the client gets an error, and the log a "failure" row.
3. NaN and infinity in patched outputs are judged sample by sample. With `--fallback error` the client gets what the
   patched graph gave, and the parameter `non_finite` counts such samples. Otherwise the original answers for those of
   these samples for which it gives finite outputs.
4. With `--on-alarm refuse` a request whose patched run raises an alarm gets an error, see `alarms`, and the log a
   "failure" row. The original never answers instead.
5. Every change of weight, controls or files begins a revision. The log has it before any row of that revision.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..decisions import CalibrationRow, DecisionRow, FailureRow, RevisionRow, SwitchRow, last_revision
from ..inspection.model_order import refuse_swapped
from .alarms import alarms_of, refuse_alarms
from .arms import ORIGINAL, PATCHED, Arm, ArmFault, ArmName, Result
from .batching import Batcher
from .calibration import Calibration
from .fallback import Unanswered, refusal, stand_in
from .kill_switch import KillSwitch
from .lanes import load_arm, make_lane
from .limits import Gate
from .log import DecisionLog
from .metrics import Metrics
from .outcome import Answer, any_flagged, completed, flags
from .protocol import InferRequest
from .routing import Split
from .settings import Settings
from .shadow import Shadow, size_of
from .tally import Tally
from .tensors import Arrays, TensorSpec
from .versions import find_arm, metadata

__all__ = ["Engine"]


class Engine:
    """Answers requests.

    Args:
        settings: of the server.
        switch: whether the patch is off.

    Raises:
        AtpatchError: of loading the models, ATP075 where they differ, ATP060 where they are swapped, ATP019 (log).
    """

    def __init__(self, settings: Settings, switch: KillSwitch) -> None:
        self.settings = settings
        self.switch = switch
        self.split = Split(settings.experiment, settings.salt, settings.split_weight)
        self.enabled: bool | None = None
        self.threshold: float | None = None
        self.lanes: dict[ArmName, Batcher] = {ORIGINAL: make_lane(load_arm(ORIGINAL, settings), settings)}
        self.calibration = Calibration(self) if settings.calibrate else None
        if settings.mode != "original":
            arm = self.calibration.restore() if self.calibration else load_arm(PATCHED, settings)
            if arm is not None:
                arm.require_same_signature(self.original)
                names = str(self.original.path), str(arm.path)
                refuse_swapped(names, (self.original.stamped, arm.stamped))
                self.lanes[PATCHED] = make_lane(arm, settings)
        self.revision = last_revision(settings.log) if settings.log is not None else 0
        self.gate = Gate(settings.limits)
        self.log = DecisionLog(settings.log, settings.log_bytes, settings.log_backups)
        self.metrics = Metrics(settings.name, self)
        self.tally = Tally(settings.watched_class)
        self.shadow = Shadow(settings.shadow_queue, settings.workers)
        self._switched: tuple[str, ...] = ()
        self.revise("start")
        self.calibrated()

    @property
    def original(self) -> Arm:
        return self.lanes[ORIGINAL].arm

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.original.outputs}

    def metadata(self) -> dict[str, Any]:
        """The model's metadata in the protocol's form."""
        return metadata(self.settings, self.lanes, self.original)

    def find(self, model: str, version: str | None) -> ArmName | None:
        """The arm that a version names, None without a version.

        Raises: Refusal 404, or 403 for the original under `strict_version`.
        """
        return find_arm(self.settings, self.lanes, model, version)

    def revise(self, reason: str, *, weight: float | None = None) -> int:
        """Begin a new revision, and log it."""
        if weight is not None:
            self.split = replace(self.split, weight=weight)
        self.revision += 1
        self.tally.revise(self.revision)
        models = {
            str(name): {"path": str(lane.arm.path), "sha256": lane.arm.sha256} for name, lane in self.lanes.items()
        }
        head = self._head(time.time())
        self.log.write(
            RevisionRow(**head, reason=reason, models=models, enabled=self.enabled, threshold=self.threshold)
        )
        return self.revision

    def set_controls(self, enabled: bool | None, threshold: float | None) -> int:
        """Set the patched graph's runtime controls; None: as in the file. Returns the revision."""
        self.enabled, self.threshold = enabled, threshold
        self.lanes[PATCHED].arm.set_controls(enabled, threshold)
        return self.revise("controls")

    def calibrated(self) -> None:
        """Log the state of the calibration, if there is one."""
        if self.calibration is not None:
            self.log.write(CalibrationRow(**self._head(time.time()), **self.calibration.logged))

    def killed(self) -> bool:
        """Whether the patch is off; a change is logged."""
        sources = self.switch.sources()
        if bool(sources) != bool(self._switched):
            self.log.write(
                SwitchRow(**self._head(time.time()), on=bool(sources), source="+".join(sources or self._switched))
            )
        self._switched = sources
        return bool(sources)

    async def infer(
        self, request: InferRequest, unit: str | None, version: ArmName | None = None, arrived: float | None = None
    ) -> Answer:
        """Answer one request.

        Args:
            unit: what is assigned to an arm; None: the request id is used.
            version: the arm that the client named, None: as the mode says.
            arrived: `time.perf_counter()` when the request had been read.

        Raises:
            Refusal: 400 where the model refuses the input, 503 where it cannot answer now.
        """
        started = time.perf_counter() if arrived is None else arrived
        identity = request.id or uuid.uuid4().hex
        who = identity if unit is None else unit
        assigned: ArmName = self.split.arm(who)
        head = self._head(time.time() - (time.perf_counter() - started))
        head |= {"id": identity, "unit": self.split.pseudonym(who), "unit_given": unit is not None}
        head |= {"assigned": None if version else assigned, "batch": request.samples}
        results: dict[ArmName, Result] = {}
        try:
            arm, fallback = await self._answer(request, version or assigned, results)
        except Unanswered as failure:
            alarms = alarms_of(results.get(PATCHED), request.samples)
            failed = FailureRow(**head, arm=failure.arm, reason=failure.fault.reason, alarms=alarms)
            self.metrics.failed(failed)
            self.log.write(failed)
            self.tally.fail(failed)
            raise refusal(failure.fault) from None
        total = time.perf_counter() - started
        result = results[arm]
        self.metrics.answered(arm, total)
        row = DecisionRow(
            **head, arm=arm, fallback=fallback, inputs=request.feeds if self.settings.log_inputs else None
        )
        if self.calibration is not None and version is None and arm == ORIGINAL:
            self.calibration.offer(request.feeds, unit, result)
        flagged, _ = flags(results.get(PATCHED), request.samples)

        def finish(status: str | None = None) -> None:
            self._finish(row, results, total, status)

        if self._shadows(version, fallback):
            self.shadow.offer(
                lambda: self._shadow(request, results, finish),
                lambda: finish("dropped"),
                size_of(request.feeds.values()) + size_of(result.outputs.values()),
            )
        else:
            finish()
        bad = 0 if result.finite is None else int((~result.finite).sum())
        alarms = alarms_of(results.get(PATCHED), request.samples)
        return Answer(identity, result.outputs, arm, row.revision, any_flagged(flagged), bad, alarms)

    async def _answer(
        self, request: InferRequest, chosen: ArmName, results: dict[ArmName, Result]
    ) -> tuple[ArmName, str | None]:
        """Run the chosen arm, or else the original; returns which arm answered, and why not the chosen one.

        Raises:
            Unanswered: an arm failed, and no other may answer.
        """
        feeds, fallback = request.feeds, None
        killed = self.killed()
        if chosen == PATCHED:
            if killed:
                fallback = "killed"
            elif PATCHED not in self.lanes:
                fallback = "absent"
            else:
                try:
                    patched = results[PATCHED] = await self._run(PATCHED, feeds, self.settings.waited_seconds)
                    if self.settings.on_alarm == "refuse":
                        refuse_alarms(patched, request.samples)
                    if patched.is_finite or not self.settings.falls_back:
                        return PATCHED, None
                    fallback = "non_finite"
                except ArmFault as fault:
                    if fault.reason == "alarm" or not self.settings.falls_back:
                        raise Unanswered(PATCHED, fault) from None
                    fallback = fault.reason if fault.reason != "memory" else "error"
        try:
            results[ORIGINAL] = await self._run(ORIGINAL, feeds)
        except ArmFault as fault:
            raise Unanswered(ORIGINAL, fault) from None
        if fallback == "non_finite":
            mixed = stand_in(results.pop(PATCHED), results[ORIGINAL])
            if mixed is not None:
                results[PATCHED] = mixed
                return PATCHED, fallback
        return ORIGINAL, fallback

    async def _run(self, name: ArmName, feeds: Arrays, seconds: float | None = None) -> Result:
        """One run; `seconds`: how long the client waits, where the lane has more time."""
        lane = self.lanes[name]
        try:
            async with asyncio.timeout(seconds if self.settings.mode == "shadow" else None):
                result = await lane.run(feeds)
        except TimeoutError:
            raise ArmFault("timeout") from None
        self.metrics.ran(name, result, lane.arm.samples(feeds))
        return result

    def _shadows(self, version: ArmName | None, fallback: str | None) -> bool:
        return (
            self.settings.mode == "shadow"
            and PATCHED in self.lanes
            and version is None
            and fallback is None
            and not self._switched
            and (self.settings.shadow_sample >= 1 or random.random() < self.settings.shadow_sample)
        )

    async def _shadow(
        self, request: InferRequest, results: dict[ArmName, Result], finish: Callable[[str], None]
    ) -> None:
        if self.killed():  # changed since it was queued
            return finish("dropped")
        try:
            patched = await self._run(PATCHED, request.feeds)
        except ArmFault as fault:
            return finish({"busy": "timeout", "memory": "error"}.get(fault.reason, fault.reason))
        if patched.finite is not None and not patched.finite.any():
            return finish("non_finite")
        results[PATCHED] = patched
        finish("compared")

    def _finish(self, row: DecisionRow, results: dict[ArmName, Result], total: float, status: str | None) -> None:
        """Complete and count a row when all of its runs have ended."""
        row = completed(row, results, self.original.scores, total, status)
        self.log.write(row)
        self.tally.add(row)
        self.metrics.decided(row)

    def _head(self, unix: float) -> dict[str, Any]:
        """The fields that every row of the log has."""
        split = self.split
        return {
            "unix": round(unix, 6),
            "experiment": split.experiment,
            "revision": self.revision,
            "salt": split.salt_digest,
            "mode": self.settings.mode,
            "weight": split.weight,
        }

    def start(self) -> None:
        """To be called on the event loop."""
        self.shadow.start()

    async def close(self) -> None:
        """End the calibration and shadow runs, and write the log out."""
        if self.calibration is not None:
            await self.calibration.close()
        await self.shadow.close(self.settings.grace)
        self.log.close()
