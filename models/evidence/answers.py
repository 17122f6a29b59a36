"""What a graph answers: class scores and flags over a data set, and figures made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from atpatch_onnx.inference.datasets import DataSet, Ints
from atpatch_onnx.inference.padding import MASK, lengths
from atpatch_onnx.inference.prediction import prediction_output
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.statistics import proportions
from rewriters.names import FLAGGED

__all__ = ["BATCH", "MASK", "Answers", "Asked", "Figures", "judge", "wilson"]

BATCH = 64

Figures = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Answers:
    """scores: (N, C) as the graph gives them; flags: (N, sites), None without telemetry; more: further values asked
    for, (N, ...).
    """

    scores: NDArray[np.float32]
    flags: NDArray[np.bool_] | None
    more: Mapping[str, NDArray[Any]]

    @property
    def predictions(self) -> Ints:
        return np.asarray(self.scores.argmax(1), np.int64)

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """(N,), whether a request was flagged anywhere."""
        assert self.flags is not None
        return np.asarray(self.flags.any(1))


class Asked:
    """A session on a graph, patched or not.

    Args:
        sample: data that fit the graph, to find the output with the class scores.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path, sample: DataSet, threads: int) -> None:
        self._runner = Runner(model, folder, threads).without_padding(MASK)
        self.output = prediction_output(self._runner, sample, None)
        self._flagged = [FLAGGED] if FLAGGED in self._runner.outputs else []

    def all(self, data: DataSet, threshold: float | None = None, more: Sequence[str] = ()) -> Answers:
        """Answers to all rows."""
        return self.rows(data, np.arange(len(data)), threshold, more)

    def rows(self, data: DataSet, rows: Ints, threshold: float | None = None, more: Sequence[str] = ()) -> Answers:
        """Answers to some rows.

        Args:
            threshold: fed to the runtime control of a patched graph.
            more: further outputs to keep.
        """
        wanted = [self.output, *self._flagged, *more]
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
        came: list[Ints] = []
        for chunk, outputs in self._runner.batches(data, rows, BATCH, wanted, threshold):
            came.append(chunk)
            for name in wanted:
                found = outputs[name][: len(chunk)]
                parts[name].append(_uncut(found, data, chunk) if name in more else found)
        place = np.zeros(len(data), np.int64)
        place[np.concatenate(came)] = np.arange(len(rows))
        arrays = {name: np.concatenate(found)[place[rows]] for name, found in parts.items()}
        return Answers(arrays[self.output], arrays.get(FLAGGED), {name: arrays[name] for name in more})


def _uncut(found: NDArray[Any], data: DataSet, rows: Ints) -> NDArray[Any]:
    """Zeros for the tokens that a batch was cut of, where the second axis counts tokens."""
    if MASK not in data.inputs or found.ndim < 2 or found.shape[1] != lengths(data.inputs[MASK][rows]).max():
        return found
    whole = data.inputs[MASK].shape[1]
    return np.pad(found, ((0, 0), (0, whole - found.shape[1]), *((0, 0),) * (found.ndim - 2)))


def judge(clean: DataSet, attacked: DataSet, before: Ints, on_clean: Ints, on_attacked: Ints) -> Figures:
    """Figures of predictions on the test sets, each a share with its interval.

    Args:
        attacked: a triggered set (accuracy, ASR, ASR*, recovered, and untriggered: clean twins that go to the target)
            or a flip set (accuracy, UF).
        before: (N,), the original's predictions on the clean set.
        on_clean, on_attacked: the judged model's; -1 for a request that was refused.
    """
    assert clean.labels is not None
    figures = {
        "accuracy": proportions.accuracy(on_clean, clean.labels),
        "clean_changed": proportions.changed(before, on_clean),
    }
    if attacked.group is not None:
        figures["uf"] = _share(proportions.unfair(on_attacked, attacked.group))
    else:
        assert attacked.target is not None and attacked.clean_row is not None
        twins = before[attacked.clean_row]
        figures["asr"] = proportions.asr(on_attacked, attacked.target)
        figures["asr_star"] = proportions.asr_star(on_attacked, twins, attacked.target)
        figures["untriggered"] = _share(twins == attacked.target)
        figures["recovered"] = proportions.accuracy(on_attacked, twins)
    return {name: share.to_json() for name, share in figures.items()}


def wilson(hits: NDArray[np.bool_]) -> Figures:
    """A share with its interval, hits (n,)."""
    return _share(hits).to_json()


def _share(hits: NDArray[np.bool_]) -> proportions.Share:
    return proportions.Share(int(np.sum(hits)), len(hits))
