"""Trigger inversion over all classes of a model with float inputs: images, numeric tables."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import COLUMNS_UNCLEAR, DATA_MALFORMED
from ...inference.datasets import DataSet, Ints
from ..gradients import TorchGraph
from ..images import PROBES
from ..sets import Anomalous, Built, triggered_sets
from ..subject import Subject
from . import Stopped
from .cells import GRID, best_cell
from .common import Progress, chosen, classes, finish, key, prepare, stepper
from .masks import MaskSearch, MaskTrigger, Schedule
from .state import State
from .verdict import WORKS, by_size

__all__ = ["invert_masks"]

ROWS = 512
"""Rows that the search uses; more rows do not give a better trigger."""
POLISH = 3
"""How much longer the search for the smallest mask is continued: its places decide which columns are labeled."""
SHOWN = 64
"""Places of a mask that a report lists."""


def invert_masks(
    subject: Subject,
    data: DataSet,
    asked: Sequence[int] | None,
    *,
    schedule: Schedule,
    seed: int,
    state_path: Path | None,
    progress: Progress,
) -> Built:
    """Invert a trigger in the graph's one input of floats.

    Args:
        asked: classes to search, None: all of them.

    Raises:
        AtpatchError: ATP056 (no float input), ATP060 (classes), ATP082 (no gradients), ATP084 (columns).
    """
    clean = subject.complete(data)
    floats = [name for name, array in clean.inputs.items() if array.dtype.kind == "f" and array.ndim > 1]
    if len(floats) != 1:
        raise DATA_MALFORMED(f"masks are searched in one input of floats, the graph has {len(floats)}")
    name = floats[0]
    graph, output, predictions, count = prepare(subject, clean)
    state = State(state_path, key(subject, clean, seed, repr((schedule, POLISH, GRID))))
    search = _Search(graph, output, name, clean, predictions, seed, state, progress)
    found = {target: search.of(target, schedule, f"class {target}") for target in classes(asked, count, predictions)}
    sizes, success = ({target: getattr(one, field) for target, one in found.items()} for field in ("norm", "success"))
    verdicts = by_size(sizes, success, {target: search.shown(one) for target, one in found.items()})
    target = chosen(verdicts, asked)
    if target is None:
        return finish(subject, Built(None), verdicts, state)
    # After the verdict, which compares searches of one length: a longer one makes the mask of any class look small.
    longer = replace(schedule, steps=POLISH * schedule.steps)
    trigger = found[target]
    with suppress(Stopped):
        trigger = min(search.of(target, longer, f"class {target}, refined"), trigger, key=lambda one: one.norm)
    verdicts = [
        replace(one, success=trigger.success, size=trigger.norm, trigger=search.shown(trigger))
        if one.target == target
        else one
        for one in verdicts
    ]
    truth = predictions if clean.labels is None else clean.labels
    rows = np.flatnonzero(truth != target)
    inputs = {**clean.feeds(rows), name: trigger.apply(clean.inputs[name][rows]).astype(clean.inputs[name].dtype)}
    columns = _moved(subject, clean, name, trigger, seed)
    report = {"trigger": "inverted", "covered": np.flatnonzero(columns).tolist()}
    built = triggered_sets(clean, Anomalous(inputs, np.tile(columns, (len(rows), 1)), rows), target, report)
    return finish(subject, built, verdicts, state)


@dataclass(frozen=True)
class _Search:
    """Searches of one model; what each found is kept in the state.

    Attributes:
        begun: class → size of its mask, and its searches, which can go on. Of the class with the smallest mask only,
            as a search takes as much memory as some samples.
    """

    graph: TorchGraph
    output: str
    name: str
    clean: DataSet
    predictions: Ints
    seed: int
    state: State
    progress: Progress
    begun: dict[int, tuple[float, list[MaskSearch]]] = field(default_factory=dict)

    @property
    def _channel(self) -> int | None:
        """Channel axis of an image: the shorter of the first and the last axis."""
        shape = self.clean.inputs[self.name].shape[1:]
        return None if len(shape) != 3 else 0 if shape[0] <= shape[-1] else 2

    def of(self, target: int, schedule: Schedule, step: str) -> MaskTrigger:
        """The trigger towards a class; from the state if it was found before."""
        stored = [self.state.get(f"{part} of {step}") for part in ("mask", "pattern", "numbers")]
        if stored[0] is not None and stored[1] is not None and stored[2] is not None:
            self.progress(step, schedule.steps, schedule.steps)
            return MaskTrigger(stored[0], stored[1], float(stored[2][0]), float(stored[2][1]))
        order = np.random.default_rng(self.seed).permutation(len(self.clean))
        rows = np.sort(order[self.predictions[order] != target][:ROWS])
        samples = np.asarray(self.clean.inputs[self.name][rows], np.float32)
        _, searches = self.begun.get(target) or (0.0, self._begin(target, samples, schedule))
        tries = [one.run(self._scores, samples, schedule.steps, stepper(self.progress, step)) for one in searches]
        found = min(tries, key=lambda one: (one.success < schedule.wanted, one.norm))
        if all(found.norm < norm for norm, _ in self.begun.values()):
            self.begun.clear()
            self.begun[target] = found.norm, searches
        self.progress(step, schedule.steps, schedule.steps)
        arrays: dict[str, NDArray[Any]] = {
            "mask": found.mask,
            "pattern": found.pattern,
            "numbers": np.array([found.norm, found.success]),
        }
        self.state.put({f"{part} of {step}": array for part, array in arrays.items()})
        return found

    def _begin(self, target: int, samples: NDArray[np.float32], schedule: Schedule) -> list[MaskSearch]:
        """From a random mask, and from a small region where one works by itself."""
        seed = self.seed + target
        cell = best_cell(self._scores, samples, target, channel_axis=self._channel, seed=seed)
        starts = [None] if cell is None or cell.success < WORKS else [None, (cell.mask, cell.pattern)]
        return [
            MaskSearch(samples, target, channel_axis=self._channel, schedule=schedule, seed=seed, start=start)
            for start in starts
        ]

    def shown(self, trigger: MaskTrigger) -> dict[str, Any]:
        """The places under a mask, without the channel axis, as a report lists them."""
        mask = trigger.mask if self._channel is None else trigger.mask.squeeze(self._channel)
        return {"places": np.argwhere(mask > 0)[:SHOWN].tolist()}

    def _scores(self, x: Tensor) -> Tensor:
        # Other inputs, such as a mask of ones, are taken from the first row.
        others = {
            other: torch.from_numpy(array[:1]) for other, array in self.clean.inputs.items() if other != self.name
        }
        feeds = {other: array.expand(len(x), *array.shape[1:]) for other, array in others.items()}
        return self.graph.run({**feeds, self.name: x}, [self.output])[self.output]


def _moved(subject: Subject, clean: DataSet, name: str, trigger: MaskTrigger, seed: int) -> NDArray[np.bool_]:
    """(K,): key columns that see a place under the mask."""
    first = clean.feeds(np.arange(min(PROBES, len(clean))))
    array = first[name]
    drawn = np.random.default_rng(seed).uniform(array.min(), array.max(), array.shape)
    columns = np.asarray(
        subject.touched(first, {**first, name: np.where(trigger.mask > 0, drawn, array).astype(array.dtype)}).any(0)
    )
    if columns.all() or not columns.any():
        raise COLUMNS_UNCLEAR(
            f"{'every' if columns.any() else 'no'} column of the first site moves with the places under the mask"
        )
    return columns
