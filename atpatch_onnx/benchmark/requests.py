"""What to time: for each shape a request that nothing flags and one that is flagged.

1. Of random inputs the patch's own threshold decides nothing: `atpatch_threshold` is fed far above all scores for a
   clean request, and for a flagged one as high as flags the wanted number of samples, so that each has one flagged
   column or a few, as real ones have.
2. Of a data set, clean requests are rows that the patch does not flag and flagged ones rows that it does, at its own
   threshold.
3. Flags are read from the graph's telemetry, or from a copy that has it; where neither can be, the share flagged is not
   known.
4. A kind of request that cannot be had (a patch that never fires, or always) is left out with a remark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.editing.observe import observe
from rewriters.model import io as model_io
from rewriters.names import FLAGGED, THRESHOLD

from ..errors import BAD_OPTION
from ..inference.datasets import DataSet, Ints
from ..inference.runner import Runner
from .arms import Feeds
from .inputs import axis_names, random_inputs
from .options import Kind

__all__ = ["Asked", "Asker", "highest_threshold"]


FAR = 1e30
"""Above and, negated, below every score."""
NEAR_ENOUGH = 1 << 16
"""Steps of float32 (0.8 %) to which the highest threshold is sought, once the right number of samples is flagged."""
MOST_ROWS = 512
"""Rows of a data set that are searched for rows of a kind."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A request.

    Attributes:
        shape: sizes by axis name, as given.
        kind: whether anything is flagged.
        feeds: inputs by name; with the patch's threshold where that is not the graph's own.
        flagged: share of samples flagged at some site, None where that cannot be seen.
    """

    shape: Mapping[str, int]
    kind: Kind
    feeds: Feeds
    flagged: float | None

    @property
    def threshold(self) -> float | None:
        """None: the graph's own."""
        return float(self.feeds[THRESHOLD]) if THRESHOLD in self.feeds else None


@dataclass(eq=False)
class Asker:
    """Makes requests for an original and its patch.

    Args:
        original, patched: model files.
        threads, provider: to look for flags with.
        seed: of random inputs.

    Attributes:
        remarks: what could not be had, one line each.
    """

    original: Path
    patched: Path
    threads: int
    provider: str
    seed: int = 0
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._model = model_io.load(self.original)
        patched = model_io.load(self.patched)
        seen = observe(patched)
        self._watcher = (
            Runner(seen.model, self.patched.parent, self.threads, providers=[self.provider]) if seen.sites else None
        )
        self._steered = any(value.name == THRESHOLD for value in patched.graph.input)

    def random(self, shape: Mapping[str, int], share: float) -> list[Asked]:
        """Clean and flagged request of random inputs.

        Args:
            share: of the samples of the batch to be flagged; one at least.
        """
        return self._steer(shape, random_inputs(self._model, shape, self.seed), share)

    def rows(self, shape: Mapping[str, int], clean: DataSet, flagged: DataSet | None, share: float) -> list[Asked]:
        """Clean and flagged request of rows of data sets; without a set of flagged rows, clean ones under a low
        threshold.

        Args:
            shape: may name only the leading axis, because the rows have their own length.
        """
        runner = Runner(self._model, self.original.parent, self.threads, providers=[self.provider])
        batch = self._batch(shape, runner)
        unflagged = self._pick(clean, runner, batch, wanted=False)
        if flagged is None:
            return self._steer(shape, unflagged or runner.feeds(clean, np.arange(batch) % len(clean)), share)
        hit = self._pick(flagged, runner, batch, wanted=True)
        given: list[tuple[Kind, Feeds | None]] = [("clean", unflagged), ("flagged", hit)]
        for kind, feeds in given:
            if feeds is None:
                self.remarks.append(
                    f"no request of the kind {kind}: the patch flags {'all' if kind == 'clean' else 'none'} of those"
                    " rows"
                )
        return [Asked(shape, kind, feeds, self._share(feeds)) for kind, feeds in given if feeds is not None]

    def _batch(self, shape: Mapping[str, int], runner: Runner) -> int:
        leading = {axes[0] for axes in axis_names(self._model).values() if axes and isinstance(axes[0], str)}
        if others := sorted(set(shape) - leading):
            raise BAD_OPTION(
                f"rows of a data set have their own size along {others[0]!r}", "give only the batch with --data"
            )
        return runner.fixed_batch or next(iter(shape.values()), 1)

    def _pick(self, data: DataSet, runner: Runner, batch: int, *, wanted: bool) -> Feeds | None:
        """So many rows that are flagged, or not; repeated where there are fewer; None where there are none."""
        rows = np.arange(min(len(data), MOST_ROWS))
        if self._watcher is not None:
            hit = np.zeros(len(rows), bool)
            for chunk, outputs in self._watcher.batches(data, rows, 32, [FLAGGED]):
                hit[chunk] = outputs[FLAGGED][: len(chunk)].any(1)
            rows = np.flatnonzero(hit == wanted)
        return runner.feeds(data, _cycle(rows, batch)) if len(rows) else None

    def _steer(self, shape: Mapping[str, int], inputs: Feeds, share: float) -> list[Asked]:
        if not self._steered:
            found = self._share(inputs)
            return [Asked(shape, "flagged" if found else "clean", inputs, found)]
        batch = len(next(iter(inputs.values())))
        silent = _with(inputs, FAR)
        asked = []
        if not (found := self._share(silent)):
            asked.append(Asked(shape, "clean", silent, found))
        else:
            self.remarks.append("no request that nothing flags: the detector ignores the threshold")
        firing = _with(inputs, self._level(inputs, max(1, round(share * batch))))
        if (found := self._share(firing)) != 0:
            asked.append(Asked(shape, "flagged", firing, found))
        else:
            self.remarks.append("no flagged request: the patch flags nothing at any threshold")
        return asked

    def _level(self, inputs: Feeds, wanted: int) -> float:
        if self._watcher is None:
            return -FAR
        return highest_threshold(lambda threshold: self._count(_with(inputs, threshold)), wanted)

    def _count(self, feeds: Feeds) -> int:
        return int(self._flags(feeds).sum())

    def _share(self, feeds: Feeds) -> float | None:
        return None if self._watcher is None else float(self._flags(feeds).mean())

    def _flags(self, feeds: Feeds) -> NDArray[np.bool_]:
        assert self._watcher is not None
        return np.asarray(self._watcher.run(feeds, [FLAGGED])[FLAGGED].any(1), np.bool_)


def highest_threshold(count: Callable[[float], int], wanted: int) -> float:
    """A threshold that `count` says flags `wanted` samples, about the highest; else the one that flags fewest beyond
    that.

    Args:
        count: threshold → samples flagged, never rising with the threshold.
    """
    low, high = _ordinal(-FAR), _ordinal(FAR)  # `wanted` or more at low, fewer at high
    found = math.inf
    while high - low > (NEAR_ENOUGH if found == wanted else 1):
        middle = (low + high) // 2
        samples = count(_float(middle))
        if samples >= wanted:
            low, found = middle, samples
        else:
            high = middle
    return _float(low)


def _ordinal(value: float) -> int:
    """Place among all float32: neighbors differ by 1."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _float(ordinal: int) -> float:
    bits = ordinal if ordinal >= 0 else -ordinal | -0x80000000
    return float(np.int32(bits).view(np.float32))


def _with(inputs: Feeds, threshold: float) -> dict[str, NDArray[Any]]:
    return {**inputs, THRESHOLD: np.array(threshold, np.float32)}


def _cycle(rows: Ints | Sequence[int], count: int) -> Ints:
    return np.resize(np.asarray(rows, np.int64), count)
