"""Tools run in another process: some print, some change global state, and one that crashes must not take the table
along.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .toolbox import TOOLS, Tool

__all__ = ["Arrays", "Outcome", "Workshop", "largest", "run", "said"]

PATIENCE = 180
"""Seconds after which a tool is given up."""

_LONGEST = 300

_ELSEWHERE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed: ?")

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Outcome:
    """Outputs of the graph that a tool made, or in its own words (or onnxruntime's) why there are none."""

    outputs: tuple[NDArray[Any], ...] | None
    message: str = ""


class Workshop:
    """A process that runs tools one after another, and is replaced where one crashes or never ends; to be used in a
    `with`.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def convert_and_run(
        self, tool: Tool, source: Path, target: Path, feeds: Arrays, spared: Sequence[str] | None = None
    ) -> Outcome:
        """Convert `source` to `target`, load that in onnxruntime, and feed it the inputs of the original and nothing
        else.

        Args:
            spared: nodes that the tool is told to leave as they are.
        """
        self._pipe.send((TOOLS.index(tool), source, target, feeds, spared))
        try:
            if self._pipe.poll(PATIENCE):
                outcome: Outcome = self._pipe.recv()
                return outcome
            words = f"took more than {PATIENCE} s"
        except EOFError:
            self._process.join()
            words = f"ended with exit status {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        self._start()
        return Outcome(None, words)


def run(path: Path, feeds: Arrays) -> tuple[NDArray[Any], ...]:
    """All outputs of a graph in onnxruntime.

    Raises:
        ValueError: the graph requires an input that is not in `feeds`.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    required = [value.name for value in session.get_inputs()]
    if more := [name for name in required if name not in feeds]:
        raise ValueError(f"requires inputs that the original has not: {', '.join(more)}")
    return tuple(np.asarray(output) for output in session.run(None, {name: feeds[name] for name in required}))


def _work(pipe: Connection) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    while True:
        number, source, target, feeds, spared = pipe.recv()
        tool = TOOLS[number]
        try:
            if spared is None:
                tool.convert(source, target)
            else:
                assert tool.spare is not None
                tool.spare(source, target, list(spared))
            outcome = Outcome(run(target, {tool.prefix + name: array for name, array in feeds.items()}))
        except Exception as error:  # whatever a tool raises is its answer
            outcome = Outcome(None, f"{type(error).__name__}: {said(str(error))}")
        pipe.send(outcome)


def said(words: str) -> str:
    """An error message without what differs from run to run."""
    return _ELSEWHERE.sub("", " ".join(words.split()))[:_LONGEST]


def largest(one: Sequence[NDArray[Any]], two: Sequence[NDArray[Any]]) -> float:
    """Largest absolute difference between outputs; infinite where shapes differ or one is not finite and the other
    is.
    """
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        if a.shape != b.shape:
            return float("inf")
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
        worst = max(worst, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)))
    return worst
