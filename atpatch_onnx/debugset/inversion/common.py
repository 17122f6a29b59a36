"""What the searches over classes have in common: checks before the search, the choice of a class, the report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from rewriters.model import io as model_io

from ...errors import BAD_OPTION, NOT_DIFFERENTIABLE
from ...inference.datasets import DataSet, Ints
from ..gradients import TorchGraph
from ..images import PROBES
from ..sets import Built
from ..subject import Subject
from .state import State
from .verdict import ClassVerdict

__all__ = ["Progress", "chosen", "classes", "finish", "key", "prepare", "stepper"]

Progress = Callable[[str, int, int], None]

TOLERANCE = 1e-3
"""Largest difference between torch and onnxruntime, relative above 1."""


def prepare(subject: Subject, clean: DataSet) -> tuple[TorchGraph, str, Ints, int]:
    """The graph in torch (checked against onnxruntime), the output's name, predictions, number of classes.

    Raises:
        AtpatchError: ATP082 where the two differ.
    """
    graph = TorchGraph(subject.proto, subject.folder)
    output = subject.output(clean)
    scores = subject.scores(clean.inputs)
    few = np.arange(min(PROBES, len(clean)))
    with torch.no_grad():
        found = graph.run({name: torch.from_numpy(array) for name, array in clean.feeds(few).items()}, [output])[
            output
        ].numpy()
    difference = float((np.abs(found - scores[few]) / np.maximum(1, np.abs(scores[few]))).max())
    if not difference <= TOLERANCE:
        raise NOT_DIFFERENTIABLE(f"run in torch the graph differs from onnxruntime by {difference:.2g}")
    return graph, output, np.asarray(scores.argmax(1), np.int64), scores.shape[1]


def classes(asked: Sequence[int] | None, count: int, predictions: Ints) -> list[int]:
    """The requested classes (None: all `count`), without one that the model already predicts for every row.

    Raises:
        AtpatchError: ATP060 for a class that the model does not have.
    """
    if asked is not None and (wrong := [target for target in asked if not 0 <= target < count]):
        raise BAD_OPTION(f"there is no class {wrong[0]}, the model has {count}")
    return [target for target in (range(count) if asked is None else asked) if (predictions != target).any()]


def chosen(verdicts: Sequence[ClassVerdict], asked: Sequence[int] | None) -> int | None:
    """The class to make a debugging set for: the most suspicious one, or the requested one; None where no class has a
    backdoor.
    """
    if asked is not None:
        return max(verdicts, key=lambda verdict: verdict.success).target
    guilty = [verdict for verdict in verdicts if verdict.backdoor]
    return (
        max(guilty, key=lambda verdict: verdict.score if verdict.score is not None else -verdict.size).target
        if guilty
        else None
    )


def finish(subject: Subject, built: Built, verdicts: Sequence[ClassVerdict], state: State) -> Built:
    """Add the answer to the report (backdoored or not, towards which classes, what was found for each), and delete the
    state file.
    """
    guilty = [verdict.target for verdict in verdicts if verdict.backdoor]
    # A single class cannot be compared with others.
    known = any(verdict.score is not None for verdict in verdicts) or len(verdicts) > 1
    answer = {
        "backdoored": bool(guilty) if known else None,
        "towards": guilty,
        "classes": [one.to_json() for one in verdicts],
        "resumed": state.resumed,
    }
    state.discard()
    if built.triggered is None:
        return Built(None, report=answer)
    predictions = subject.predictions({name: built.triggered[name] for name in subject.inputs})
    asr = float((predictions == built.report["target"]).mean())
    return Built(built.debug, built.triggered, None, built.clean, {**built.report, "asr": asr, **answer})


def stepper(progress: Progress, step: str) -> Callable[[int, int], None]:
    """Progress of one step."""
    return lambda done, total: progress(step, done, total)


def key(subject: Subject, clean: DataSet, seed: int, settings: str) -> str:
    """Digest of everything that a search depends on."""
    weights = model_io.weights_digest(subject.proto, subject.folder)
    return hashlib.sha256(f"{weights} {clean.digest} {seed} {settings}".encode()).hexdigest()
