"""Whole greedy answers of a decoder as classes: two rows are of one class where they get the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.names import THRESHOLD

from ..inference.datasets import DataSet, Ints
from ..inference.generation import generate
from ..inference.runner import Runner
from .judge import Judge

__all__ = ["WholeAnswers"]


@dataclass
class WholeAnswers:
    """Answers of `length` tokens; `original`: (N,) classes of the model's own."""

    data: DataSet
    length: int
    original: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    _classes: dict[tuple[int, ...], int] = field(default_factory=dict)

    @classmethod
    def of(cls, runner: Runner, data: DataSet, length: int) -> WholeAnswers:
        """With those of the original model."""
        whole = cls(data, length)
        whole.original = whole.told(runner, np.arange(len(data)))
        return whole

    @property
    def judge(self) -> Judge:
        """A clean row is changed, and an attack works, where any token is another one."""
        return Judge(replace(self.data, labels=None, target=None), self.original)

    def told(self, runner: Runner, rows: Ints, threshold: float | None = None) -> Ints:
        """(N,) classes of the answers to some rows, -1 at others.

        Args:
            threshold: fed to `atpatch_threshold` of a patched graph.

        Raises:
            AtpatchError: ATP056 where the graph is no decoder.
        """
        controls: Mapping[str, NDArray[Any]] = {}
        if threshold is not None:
            controls = {THRESHOLD: np.array(threshold, np.float32)}
        found = np.full(len(self.data), -1, np.int64)
        if len(rows):
            tokens = generate(runner, self.data, rows, self.length, controls=controls).tokens
            found[rows] = [self._classes.setdefault(tuple(line), len(self._classes)) for line in tokens.tolist()]
        return found
