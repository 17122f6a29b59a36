"""Calibrate on the first live requests: collect rows, fit a hotfix on them, go on in shadow with the patched model.

1. Until the hotfix is there, the original answers and nothing is patched. Then the mode is shadow: the original still
   answers, and the patched model runs after it. Only the operator changes that (`/admin/mode`, or another start).
2. Rows come from requests that the original answered with finite numbers, and whose client named no version; see
   `Collector` for which of them. They are in memory, at most `MOST_BYTES`, and are dropped when the fit has them.
3. A fit that fails leaves the original answering. The reason is in the status, the metrics and both logs.
4. Nothing of the rows is on disk, so a server that stops while it collects begins again. With `save_hotfix` a finished
   hotfix is kept: a later start uses it and collects nothing. A file that is there is never replaced.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal, Protocol

from rewriters.editing.patcher import is_patched
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.model.atomic import staged

from ..errors import ALREADY_PATCHED, BAD_OPTION, NO_CLASS_SCORES, AtpatchError
from ..fitting.traffic.collector import Collector
from ..inspection.inspector import no_site
from ..paths import temporary_folder
from .arm_graph import ArmGraph
from .arms import ORIGINAL, PATCHED, Arm, ArmName, Result
from .batching import Batcher
from .fit_process import HOTFIX, FitFailed, FitProcess
from .lanes import load_arm, make_lane
from .metrics import Metrics
from .settings import Settings
from .tensors import Arrays, finite_samples
from .trial import try_out

__all__ = ["Calibration", "State"]

State = Literal["calibrating", "fitting", "fitted", "failed"]

_logger = logging.getLogger(__name__)


class Host(Protocol):
    """The engine, as far as it is needed here."""

    settings: Settings
    lanes: dict[ArmName, Batcher]
    metrics: Metrics

    def revise(self, reason: str) -> int: ...

    def calibrated(self) -> None: ...


class Calibration:
    """From live requests to a patched arm.

    Args:
        host: whose `lanes` get the patched arm; `calibrated` is called at each change of state.

    Attributes:
        state: "calibrating" (rows are collected), "fitting", "fitted", "failed".
        reason: why it failed; "" otherwise.
        graph: of the patched arm, once there is one.
        taken: rows in the fit.

    Raises:
        AtpatchError: ATP010, ATP012, ATP060 and ATP062 where the model is none that requests can calibrate; ATP019
            without a place for temporary files.
    """

    def __init__(self, host: Host) -> None:
        settings = host.settings
        require_fittable(host.lanes[ORIGINAL].arm)
        self.state: State = "calibrating"
        self.reason = ""
        self.graph: ArmGraph | None = None
        self.taken = 0
        self._host = host
        self._saved = settings.save_hotfix
        self._collector = Collector(settings.calibrate)
        self._warned = False
        self._files = ExitStack()
        self._folder = self._files.enter_context(temporary_folder())
        weakref.finalize(self, self._files.close)  # also where the server never starts
        self._process = FitProcess(settings.original, self._folder, settings.threads)
        self._task: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> int:
        return self._host.settings.calibrate

    @property
    def status(self) -> str:
        """In words: "calibrating 120 of 500", "fitting", the mode once it is fitted, "failed: …"."""
        if self.state == "calibrating":
            return f"calibrating {self.taken} of {self.wanted}"
        if self.state == "failed":
            return f"failed: {self.reason}"
        return self._host.settings.mode if self.state == "fitted" else self.state

    @property
    def left_out(self) -> Mapping[str, int]:
        """Reason → rows of requests that were not taken."""
        return self._collector.left_out

    @property
    def logged(self) -> dict[str, Any]:
        """Fields of its row in the decision log."""
        hotfix = None if self.graph is None else self.graph.sha256
        reason = self.reason or None
        return {"state": self.state, "rows": self.taken, "wanted": self.wanted, "reason": reason, "hotfix": hotfix}

    def describe(self) -> dict[str, Any]:
        """For the admin endpoint."""
        return {
            "state": self.state,
            "status": self.status,
            "rows": self.taken,
            "wanted": self.wanted,
            "left_out": dict(self.left_out),
            "hotfix": None if self.graph is None else self.graph.sha256,
        }

    def restore(self) -> Arm | None:
        """The patched arm of a hotfix that an earlier server saved; None where there is none.

        Raises:
            AtpatchError: ATP060 where the file is not usable for this model.
        """
        if self._saved is None or not self._saved.exists():
            return None
        shutil.copyfile(self._saved, self._folder / HOTFIX)
        try:
            self.graph = self._process.run([])
        except FitFailed as failure:
            raise BAD_OPTION(f"{self._saved} is there, but cannot be used: {failure}", "give another name") from None
        self.state = "fitted"
        return load_arm(PATCHED, self._host.settings, self.graph)

    def offer(self, feeds: Arrays, unit: str | None, answer: Result) -> None:
        """Take rows of a request that the original answered; begins the fit when there are enough."""
        if self.state != "calibrating":
            return
        if not finite_samples(answer.outputs, 1).all():
            self._collector.left_out["not finite"] += 1
            return
        self._collector.offer(feeds, unit)
        self.taken = len(self._collector.rows)
        self._warn()
        if self._collector.full:
            self._change("fitting")
            self._task = asyncio.get_running_loop().create_task(self._fit())

    def _warn(self) -> None:
        """Once, where the rules of the collector may keep it waiting."""
        units = self._collector.left_out["unit"]
        if units > self.wanted and not self._warned:
            self._warned = True
            _logger.warning(
                "calibration waits at %d of %d rows: %d rows were left out as their units had given a tenth already",
                self.taken,
                self.wanted,
                units,
            )

    async def _fit(self) -> None:
        host = self._host
        try:
            self.graph = graph = await asyncio.to_thread(self._process.run, self._collector.rows)
            arm = await asyncio.to_thread(load_arm, PATCHED, host.settings, graph)
            original = host.lanes[ORIGINAL].arm
            arm.require_same_signature(original)
            await try_out(arm, original)
        except (AtpatchError, FitFailed) as error:
            return self._fail(str(error))
        except Exception as error:  # a bug of ours must not end the server, nor leave the state at "fitting"
            _logger.exception("the calibration failed")
            return self._fail(f"internal error, {type(error).__name__}")
        host.lanes[PATCHED] = make_lane(arm, host.settings)
        host.metrics.expect(PATCHED)
        self._save()
        host.revise("calibrated")
        self._change("fitted")

    def _save(self) -> None:
        if self._saved is None:
            return
        try:
            with staged(self._saved, replace=False) as file:
                file.write((self._folder / HOTFIX).read_bytes())
        except OSError as error:
            _logger.warning("the hotfix was not saved as %s: %s", self._saved, error.strerror or error)

    def _fail(self, reason: str) -> None:
        self.graph, self.reason = None, reason
        self._change("failed")

    def _change(self, state: State) -> None:
        self.state = state
        _logger.log(logging.WARNING if state == "failed" else logging.INFO, "calibration: %s", self.status)
        self._host.calibrated()

    async def close(self) -> None:
        """End the fit, and remove the files."""
        self._process.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._files.close()


def require_fittable(arm: Arm) -> None:
    """Refuse a model before the first request that no number of requests could calibrate.

    Raises:
        AtpatchError: ATP010 without an attention site, ATP012 where it is patched, ATP060 where the first axis of the
            inputs does not count samples, ATP062 without class scores.
    """
    proto = model_io.load(arm.path)
    if is_patched(proto):
        raise ALREADY_PATCHED("requests calibrate the original model", "unpatch it first")
    sites, rejected = find_sites(proto)
    if not sites:
        raise no_site(str(arm.path), sites, rejected)
    if arm.scores is None:
        raise NO_CLASS_SCORES(
            "no output holds one row of class scores per sample, which a fit on requests needs",
            "fit a hotfix on data with 'fit --output-kind', and serve the patched model",
        )
    leading = {spec.shape[0] if spec.shape else None for spec in arm.inputs}
    if len(leading) != 1 or None in leading:
        raise BAD_OPTION("the first axis of the inputs does not count samples", "fit a hotfix on data, and serve that")
