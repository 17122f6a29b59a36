"""One model on a clean and a triggered set: its predictions, its class scores, its flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.telemetry import FLAGGED

from ..datasets import DataSet
from ..errors import DATA_MALFORMED
from ..fitting.running import Runner
from ..fitting.served import prediction_output
from . import metrics
from .metrics import Share

__all__ = ["Figures", "Trial", "figures", "run_trial"]

BATCH = 64


@dataclass(frozen=True, eq=False)
class Trial:
    """What a model said.

    Attributes:
        clean, triggered: class scores (N, C) as the graph gives them.
        clean_flags, triggered_flags: (N, sites), None without telemetry.
    """

    clean: NDArray[np.float32]
    triggered: NDArray[np.float32]
    clean_flags: NDArray[np.bool_] | None = None
    triggered_flags: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Figures:
    """The figures of one model; flag rates are None for a graph without telemetry, `asr_star` where every twin is the target."""

    accuracy: Share
    asr: Share
    asr_star: Share
    recovered: Share
    clean_changed: Share
    clean_flagged: Share | None
    triggered_flagged: Share | None

    def to_json(self) -> dict[str, Any]:
        return {name: share.to_json() for name, share in vars(self).items() if share is not None}


def run_trial(model: onnx.ModelProto, folder: Path, clean: DataSet, triggered: DataSet) -> Trial:
    """Run a model, patched or not, over both sets. One thread: rows of these sets are many and small.

    Raises:
        AtpatchError: ATP050, ATP052 (onnxruntime), ATP056 (the sets do not fit the graph).
    """
    runner = Runner(model, folder, threads=1)
    output = prediction_output(runner, clean, None)
    wanted = [output, FLAGGED] if FLAGGED in runner.outputs else [output]

    def over(data: DataSet) -> dict[str, NDArray[Any]]:
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
        for rows, outputs in runner.batches(data, np.arange(len(data)), BATCH, wanted):
            for name in wanted:
                parts[name].append(outputs[name][: len(rows)])
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    on_clean, on_triggered = over(clean), over(triggered)
    return Trial(on_clean[output], on_triggered[output], on_clean.get(FLAGGED), on_triggered.get(FLAGGED))


def figures(trial: Trial, original: Trial, clean: DataSet, triggered: DataSet) -> Figures:
    """Judge a trial against labels and against the original model's own.

    Raises:
        AtpatchError: ATP056 where labels, target or clean_row are missing.
    """
    if clean.labels is None or triggered.labels is None or triggered.target is None or triggered.clean_row is None:
        raise DATA_MALFORMED("the clean set needs labels, the triggered set labels, target and clean_row")
    predicted, attacked, before = trial.clean.argmax(1), trial.triggered.argmax(1), original.clean.argmax(1)
    twins = before[triggered.clean_row]
    return Figures(
        accuracy=metrics.accuracy(predicted, clean.labels),
        asr=metrics.asr(attacked, triggered.target),
        asr_star=metrics.asr_star(attacked, twins, triggered.target),
        recovered=metrics.accuracy(attacked, triggered.labels),
        clean_changed=metrics.changed(before, predicted),
        clean_flagged=None if trial.clean_flags is None else metrics.flag_rate(trial.clean_flags),
        triggered_flagged=None if trial.triggered_flags is None else metrics.flag_rate(trial.triggered_flags),
    )
