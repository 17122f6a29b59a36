"""Options of a server, fixed when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .arms import ORIGINAL, PATCHED, ArmName
from .limits import Limits

__all__ = ["SHADOW_SECONDS", "VERSIONS", "Fallback", "Mode", "OnAlarm", "Settings"]

Fallback = Literal["original", "error"]
OnAlarm = Literal["tell", "refuse"]
Mode = Literal["shadow", "ab", "patched", "original"]

VERSIONS: dict[str, ArmName] = {"1": ORIGINAL, "2": PATCHED}
"""Version of the one model name → arm."""

WAITED_SECONDS = 1.0
"""How long a client waits for a patched run before the original answers instead."""
SHADOW_SECONDS = 10.0
"""Long, as shadow runs have low priority and flagged requests may take two passes: the pairs that time out matter most.
"""


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        original, patched: model files; no patched one where requests calibrate it.
        mode: who answers: "shadow" (the original; the patched arm runs after it, and both are compared), "ab" (by the
            split), or one of the two arms.
        name: of the model, as clients see it.
        experiment, salt, weight: of the split, see `routing.Split`.
        unit_header: header with the unit. The request parameter `unit` takes precedence; without either, the request id
            is the unit.
        threads, workers: per arm, see `arms.Arm`.
        batch_rows, batch_delay: of dynamic batching, see `batching.Batcher`; 1 row: off.
        timeout: seconds that a patched run has while a client waits; None: 1 where the original can answer after it,
            else as long as the original has.
        fallback: what a request gets when its patched run times out or fails: the original's answer, or an error. For
            NaN it gets the original's answer too, or with "error" the NaN as it is. None: "error" in mode "patched", so
            that nothing in a request can choose who answers it, and where alarms are refused; else "original". The
            kill switch always means the original.
        on_alarm: what the patched arm's answer to a request with an alarm is: the answer, and it is told; or an error.
        strict_version: refuse clients that name version 1, in mode "patched".
        shadow_timeout: seconds of a shadow run, for which nobody waits; None: the longer one of `timeout` and
            `SHADOW_SECONDS`.
        shadow_queue: shadow runs that may wait.
        shadow_sample: share of requests that are shadowed.
        kill_file: while it exists, the patch is off.
        hot_controls: the admin endpoint may change `atpatch_enabled` and `atpatch_threshold`.
        watched_class: class whose gain or loss by the patch the page shows.
        output_kind: what the model answers, see `arms.Arm`; without classes the log has no predictions.
        log, log_bytes, log_backups, log_inputs: of the decision log; None: none.
        grpc_port: port of gRPC, None: no gRPC.
        hosts: names of the page and of the admin endpoint, in addition to localhost and addresses.
        drain: seconds between the signal to stop and the last accepted connection.
        grace: seconds that requests and shadow runs have to end after that.
        limits: on requests.
        calibrate: rows of live requests to fit a hotfix on, see `calibration`; 0: none.
        save_hotfix: where that hotfix is kept, and looked for when the server starts; None: nowhere.
        verify_key: public key; model files must carry a good signature of it whenever they are loaded. None: no
            signature is asked for.
        restored: the original was made from the patched model, so the signature of that one counts.
    """

    original: Path
    patched: Path | None
    mode: Mode = "shadow"
    name: str = "model"
    experiment: str = "atpatch"
    salt: str = ""
    weight: float = 0.1
    unit_header: str = "X-Atpatch-Unit"
    threads: int = 1
    workers: int = 2
    batch_rows: int = 1
    batch_delay: float = 0.002
    timeout: float | None = None
    fallback: Fallback | None = None
    on_alarm: OnAlarm = "tell"
    strict_version: bool = False
    shadow_timeout: float | None = None
    shadow_queue: int = 64
    shadow_sample: float = 1.0
    kill_file: Path | None = None
    hot_controls: bool = False
    watched_class: int | None = None
    output_kind: str | None = None
    log: Path | None = None
    log_bytes: int = 100_000_000
    log_backups: int = 5
    log_inputs: bool = False
    grpc_port: int | None = None
    hosts: tuple[str, ...] = ()
    drain: float = 1.0
    grace: float = 10.0
    limits: Limits = field(default_factory=Limits)
    calibrate: int = 0
    save_hotfix: Path | None = None
    verify_key: Path | None = None
    restored: bool = False

    @property
    def split_weight(self) -> float:
        """Share of units for the patched arm in this mode."""
        return {"original": 0.0, "shadow": 0.0, "patched": 1.0}.get(self.mode, self.weight)

    @property
    def falls_back(self) -> bool:
        """Whether the original answers for a patched run that fails."""
        strict = self.mode == "patched" or self.on_alarm == "refuse"
        return (self.fallback or ("error" if strict else "original")) == "original"

    @property
    def waited_seconds(self) -> float:
        """Seconds that a patched run has while a client waits."""
        if self.timeout is not None:
            return self.timeout
        return WAITED_SECONDS if self.falls_back else self.limits.answer_seconds

    @property
    def patched_seconds(self) -> float:
        """Seconds that a run of the patched arm has in this mode."""
        if self.mode != "shadow":
            return self.waited_seconds
        return max(self.waited_seconds, SHADOW_SECONDS) if self.shadow_timeout is None else self.shadow_timeout
