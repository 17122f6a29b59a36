"""Prometheus metrics: Triton's names and meanings for what Triton counts too, `atpatch_*` for the rest.

Triton's counters have no `_total`, which prometheus_client appends to each of its own counters. So they come from a
collector, untyped.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ..decisions import DecisionRow, FailureRow
from .arms import ORIGINAL, PATCHED, ArmName, Result
from .batching import Batcher
from .kill_switch import KillSwitch
from .limits import Gate
from .log import DecisionLog
from .routing import Split
from .settings import VERSIONS
from .shadow import Shadow
from .tally import Minute, Tally

__all__ = ["Metrics"]

_VERSION = {arm: version for version, arm in VERSIONS.items()}
_TRITON = {
    "nv_inference_request_success": "Requests answered, by the arm that answered",
    "nv_inference_request_failure": "Requests that no arm could answer",
    "nv_inference_count": "Samples run, including shadow runs and runs given up for another arm's answer",
    "nv_inference_exec_count": "Runs; a joined run counts once",
    "nv_inference_request_duration_us": "Cumulative time of answered requests",
    "nv_inference_queue_duration_us": "Cumulative time that runs waited for a worker or for requests to join",
    "nv_inference_compute_infer_duration_us": "Cumulative time in onnxruntime",
}
# Columns of long sequences would make one series each.
_MOST_COLUMNS = 256
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class CalibrationState(Protocol):
    """What the gauges read of a calibration."""

    @property
    def state(self) -> str: ...

    @property
    def taken(self) -> int: ...

    @property
    def wanted(self) -> int: ...


class ServerState(Protocol):
    """What the gauges read at each scrape; they never change it."""

    lanes: dict[ArmName, Batcher]
    gate: Gate
    log: DecisionLog
    shadow: Shadow
    split: Split
    revision: int
    switch: KillSwitch
    tally: Tally

    @property
    def calibration(self) -> CalibrationState | None: ...


class Metrics:
    """Counts, and renders them.

    Args:
        model: value of the label `model`.
        state: what the gauges read.
    """

    def __init__(self, model: str, state: ServerState) -> None:
        from prometheus_client import CollectorRegistry, Counter as Count, Histogram

        self.registry = CollectorRegistry()
        self._model = model
        self._state = state
        self._triton: dict[str, Counter[tuple[ArmName, str]]] = {name: Counter() for name in _TRITON}
        self._columns_seen: set[tuple[str, int]] = set()
        registry = self.registry
        self._fallbacks = Count(
            "atpatch_fallbacks",
            "Requests that the original answered in place of the patched arm",
            ["reason"],
            registry=registry,
        )
        self._shadow = Count("atpatch_shadow", "Shadow runs by how they ended", ["status"], registry=registry)
        self._pairs = Count("atpatch_shadow_pairs", "Samples compared", registry=registry)
        self._disagree = Count(
            "atpatch_shadow_disagreements", "Samples for which the arms predict different classes", registry=registry
        )
        self._judged = Count(
            "atpatch_judged",
            "Samples whose flags are known: the patched arm ran, reports what it flags, and gave no NaN",
            registry=registry,
        )
        self._flagged = Count("atpatch_flagged", "Samples that the patch flagged", registry=registry)
        self._non_finite = Count(
            "atpatch_non_finite",
            "Samples for which the patched arm gave NaN or infinity, shadow runs included",
            registry=registry,
        )
        self._alarm_known = Count("atpatch_alarm_judged", "Samples whose alarm is known", registry=registry)
        self._alarms = Count(
            "atpatch_alarms",
            "Samples with an alarm, those of shadow runs and of refused requests included",
            registry=registry,
        )
        self._alarm_refused = Count("atpatch_alarm_refused", "Requests refused for an alarm", registry=registry)
        self._columns = Count(
            "atpatch_flagged_columns", "Times that a key column was flagged", ["site", "column"], registry=registry
        )
        self._reloads = Count("atpatch_reloads", "Reloads of a model file", ["arm", "result"], registry=registry)
        self._refused = Count(
            "atpatch_refused",
            "Requests that got an error status, those refused for an alarm included",
            ["status"],
            registry=registry,
        )
        self._latency = Histogram(
            "atpatch_latency_seconds", "Answer ready after request read", ["arm"], buckets=_BUCKETS, registry=registry
        )
        self._begin_at_zero()
        registry.register(self)

    def _begin_at_zero(self) -> None:
        """Start the series that alert rules need: Prometheus sees no increase if one begins with its first event."""
        for status in ("compared", "dropped", "timeout", "error", "non_finite"):
            self._shadow.labels(status)
        for reason in ("killed", "non_finite", "timeout", "busy", "error"):
            self._fallbacks.labels(reason)
        self._refused.labels("503")
        for arm in self._state.lanes:
            self.expect(arm)

    def expect(self, arm: ArmName) -> None:
        """Start the series of an arm at zero."""
        for result in ("done", "refused"):
            self._reloads.labels(arm, result)
        for reason in ("BACKEND", "OTHER"):
            self._triton["nv_inference_request_failure"][arm, reason] = 0
        for name in ("nv_inference_request_success", "nv_inference_count"):
            self._triton[name][arm, ""] = 0

    def answered(self, arm: ArmName, seconds: float) -> None:
        """Count an answer to a client."""
        self._triton["nv_inference_request_success"][arm, ""] += 1
        self._add("nv_inference_request_duration_us", arm, seconds)
        self._latency.labels(arm).observe(seconds)

    def failed(self, row: FailureRow) -> None:
        """Count a request that got an error. An alarm is no failure of the arm; a model that refuses the input is
        Triton's BACKEND.
        """
        self._count_alarms(row)
        if row.reason == "alarm":
            self._alarm_refused.inc()
            return
        arm = PATCHED if row.arm == PATCHED else ORIGINAL
        self._triton["nv_inference_request_failure"][arm, "BACKEND" if row.reason == "error" else "OTHER"] += 1

    def _count_alarms(self, row: DecisionRow | FailureRow) -> None:
        self._alarm_known.inc(len(row.alarms or ()))
        self._alarms.inc(sum(row.alarms or ()))

    def ran(self, arm: ArmName, result: Result, samples: int) -> None:
        """Count a run that succeeded."""
        self._triton["nv_inference_count"][arm, ""] += samples
        self._add("nv_inference_queue_duration_us", arm, max(result.seconds - result.computed, 0.0))
        self._add("nv_inference_compute_infer_duration_us", arm, result.computed)
        if result.finite is not None:
            self._non_finite.inc(int((~result.finite).sum()))

    def decided(self, row: DecisionRow) -> None:
        """Count a complete decision."""
        self._count_alarms(row)
        if row.fallback:
            self._fallbacks.labels(row.fallback).inc()
        if row.shadow:
            self._shadow.labels(row.shadow).inc()
        if row.agree is not None:
            self._pairs.inc(sum(agree is not None for agree in row.agree))
            self._disagree.inc(sum(agree is False for agree in row.agree))
        if row.flagged is not None:
            self._judged.inc(sum(flag is not None for flag in row.flagged))
            self._flagged.inc(sum(flag is True for flag in row.flagged))
        for site, samples in (row.columns or {}).items():
            for column in (column for sample in samples for column in sample):
                seen = (site, column) in self._columns_seen or len(self._columns_seen) < _MOST_COLUMNS
                if seen:
                    self._columns_seen.add((site, column))
                self._columns.labels(site, str(column) if seen else "other").inc()

    def reloaded(self, arm: str, result: str) -> None:
        self._reloads.labels(arm, result).inc()

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def render(self) -> bytes:
        """Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def collect(self) -> Iterator[Any]:
        """For prometheus_client."""
        from prometheus_client.core import GaugeMetricFamily
        from prometheus_client.metrics_core import Metric

        state = self._state
        runs: dict[tuple[ArmName, str], int] = {(arm, ""): lane.runs for arm, lane in state.lanes.items()}
        for name, text in _TRITON.items():
            metric = Metric(name, text, "unknown")
            counts = runs if name == "nv_inference_exec_count" else self._triton[name]
            for (arm, reason), count in counts.items():
                labels = {"model": self._model, "version": _VERSION[arm]} | ({"reason": reason} if reason else {})
                metric.add_sample(name, labels, count)
            yield metric
        hour, patched = state.tally.last_hour(time.time()), state.lanes.get(PATCHED)
        gauges: dict[str, tuple[str, float]] = {
            "nv_inference_pending_request_count": ("Requests being computed", state.gate.in_flight),
            "atpatch_flag_rate": (
                "Share of flagged samples among those of the last hour whose flags are known; NaN without any",
                _rate(hour, "flagged", "judged"),
            ),
            "atpatch_alarm_rate": (
                "Share of samples with an alarm among those of the last hour whose alarm is known; NaN without any",
                _rate(hour, "alarms", "alarm_known"),
            ),
            "atpatch_disagreement_rate": (
                "Share of shadow pairs of the last hour that disagree; NaN without any",
                _rate(hour, "disagree", "pairs"),
            ),
            "atpatch_killed": ("1 while the kill switch is on", float(bool(state.switch.sources()))),
            "atpatch_weight": ("Share of units for the patched arm", state.split.weight),
            "atpatch_revision": ("Revision", state.revision),
            "atpatch_shadow_queue": ("Shadow runs waiting", state.shadow.waiting),
            "atpatch_hung_runs": (
                "Runs past their time limit that have not ended",
                sum(lane.arm.hung for lane in state.lanes.values()),
            ),
            "atpatch_log_failures": ("Rows that could not be written to the log", state.log.failures),
            "atpatch_calibrating": (
                "1 while rows of requests are collected or a hotfix is fitted on them",
                float(state.calibration is not None and state.calibration.state in ("calibrating", "fitting")),
            ),
            "atpatch_calibration_failed": (
                "1 where no hotfix could be fitted on requests",
                float(state.calibration is not None and state.calibration.state == "failed"),
            ),
            "atpatch_calibration_rows": (
                "Rows of requests taken for the fit",
                state.calibration.taken if state.calibration else 0,
            ),
            "atpatch_calibration_rows_wanted": (
                "Rows of requests that the fit needs; 0 without --calibrate",
                state.calibration.wanted if state.calibration else 0,
            ),
        }
        if patched is not None:  # in mode original there is nothing that could report flags
            reports = float(not patched.arm.untold)
            gauges["atpatch_flags_told"] = ("1 where the patched graph reports what it flags", reports)
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)

    def _add(self, name: str, arm: ArmName, seconds: float) -> None:
        self._triton[name][arm, ""] += round(seconds * 1e6)


def _rate(minutes: Sequence[Minute], part: str, whole: str) -> float:
    """The share, NaN without samples, since 0 would say that all is well."""
    total = sum(getattr(minute, whole) for minute in minutes)
    return sum(getattr(minute, part) for minute in minutes) / total if total else math.nan
