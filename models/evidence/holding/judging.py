"""What a patched graph does to fresh rows: accuracy kept, attacks left, requests flagged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atpatch_onnx.inference.datasets import DataSet, Ints
from atpatch_onnx.statistics import proportions
from rewriters.model import io as model_io

from ..answers import Asked, Figures, wilson
from .material import Attacked

__all__ = ["Judge", "asked"]


class Judge:
    """Judges patched graphs of one model on one clean test set.

    Args:
        model: the original.
        clean: labeled rows.
        target: class that the attack aims at.
    """

    def __init__(self, model: Path, clean: DataSet, target: int, threads: int) -> None:
        self._rows, self._target, self._threads = clean, target, threads
        self._original = asked(model, clean, threads)
        self._before = self._original.all(clean).predictions

    def figures(self, patched: Path, attacked: dict[str, Attacked]) -> Figures:
        """Of a graph with telemetry: `clean`, and each attack by name."""
        graph = asked(patched, self._rows, self._threads)
        return {
            "clean": self._clean(graph),
            "attacks": {name: self._attack(graph, one) for name, one in attacked.items()},
        }

    def original(self, attacked: Attacked) -> Figures:
        """ASR* of the original."""
        return self._left(self._original.all(attacked.data).predictions, attacked)

    def _left(self, found: Ints, attacked: Attacked) -> Figures:
        return proportions.asr_star(found, self._before[attacked.rows], self._target).to_json()

    def _clean(self, graph: Asked) -> Figures:
        """Accuracy before and after, rows that changed, rows flagged; `points` of accuracy lost."""
        labels = self._rows.labels
        assert labels is not None
        after = graph.all(self._rows)
        lost = np.mean(self._before == labels) - np.mean(after.predictions == labels)
        return {
            "original": proportions.accuracy(self._before, labels).to_json(),
            "accuracy": proportions.accuracy(after.predictions, labels).to_json(),
            "points": round(100 * float(lost), 3),
            "changed": proportions.changed(self._before, after.predictions).to_json(),
            "flagged": wilson(after.flagged),
        }

    def _attack(self, graph: Asked, attacked: Attacked) -> Figures:
        """ASR* before and after, ASR, rows flagged; `floor`: clean twins that go to the target by themselves; `right`:
        answers as the label of the clean row wants them.
        """
        after, labels = graph.all(attacked.data), self._rows.labels
        assert labels is not None
        return {
            "original": self.original(attacked),
            "asr": proportions.asr(after.predictions, self._target).to_json(),
            "asr_star": self._left(after.predictions, attacked),
            "floor": wilson(self._before[attacked.rows] == self._target),
            "flagged": wilson(after.flagged),
            "right": proportions.accuracy(after.predictions, labels[attacked.rows]).to_json(),
        }


def asked(path: Path, sample: DataSet, threads: int) -> Asked:
    """A session on a graph of a file."""
    return Asked(model_io.load(path), path.parent, sample, threads)
