"""STRIP (Gao et al. 2019; for texts STRIP-ViTA, 2021): mix a request with clean samples; a trigger keeps the answers
sure of themselves.

Images are added to a clean one and clipped, as its authors do; of a text every second word, drawn at random, is
replaced by one of a clean text. A request is refused where the mean entropy of the N answers is low. Costs N + 1
samples a request.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from atpatch_onnx.benchmark.paired_latency import Request
from atpatch_onnx.inference.datasets import DataSet, Ints

from ..answers import Figures
from ..case import Case
from ..latency import Feeds, ratio, requests, samples
from .refusal import refusing

__all__ = ["COPIES", "run"]

COPIES = 5
MOST_SPARE = 1000
REPLACED = 0.5


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures at each refusal rate, and the cost."""
    mixer, asked = _Mixer(case), case.ask(case.model)

    def sureness(data: DataSet, rows: Ints) -> NDArray[np.float64]:
        mixed = DataSet(mixer.mix(data.feeds(rows)))
        log = log_softmax(asked.all(mixed).scores.astype(np.float64), axis=1)
        return np.asarray((np.exp(log) * log).sum(1).reshape(COPIES, len(rows)).mean(0))

    spare = np.arange(min(len(case.spare), MOST_SPARE))
    scores = [
        sureness(case.spare, spare),
        *(sureness(data, np.arange(len(data))) for data in (case.clean, case.attacked)),
    ]
    plain = requests(case, None)

    def guarded(feeds: Feeds) -> Request:
        def ask() -> object:
            mixed = mixer.mix(feeds)
            return plain({name: np.concatenate([feeds[name], array]) for name, array in mixed.items()})()

        return ask

    return {"runs": COPIES + 1, "rates": refusing(case, *scores), "latency": ratio(plain, guarded, samples(case))}


class _Mixer:
    """Mixes samples with clean rows of the debugging set, drawn at random."""

    def __init__(self, case: Case) -> None:
        assert case.debug.columns is not None
        self._generator = case.generator()
        self._donors = case.debug.feeds(np.flatnonzero(~case.debug.columns.any(1)))
        self._texts = case.setting.kind == "text"

    def mix(self, feeds: Feeds) -> Feeds:
        """All samples (B, ...) with one donor each, then with another, COPIES times: (COPIES · B, ...)."""
        rows = {name: np.tile(array, (COPIES, *(1,) * (array.ndim - 1))) for name, array in feeds.items()}
        count = len(next(iter(rows.values())))
        donors = self._generator.integers(len(next(iter(self._donors.values()))), size=count)
        if self._texts:
            return {**rows, "input_ids": self._words(rows["input_ids"], rows["attention_mask"], donors)}
        return {name: self._sum(name, array, donors) for name, array in rows.items()}

    def _sum(self, name: str, rows: NDArray[np.floating], donors: Ints) -> NDArray[np.floating]:
        pool = self._donors[name]
        return np.clip(rows + pool[donors], pool.min(), pool.max()).astype(rows.dtype)

    def _words(self, ids: Ints, mask: Ints, donors: Ints) -> Ints:
        """Never the first and the last token of a text."""
        length, given = mask.sum(1, keepdims=True), self._donors["attention_mask"][donors].sum(1, keepdims=True)
        place = np.arange(ids.shape[1])[None, :]
        replaced = (place > 0) & (place < length - 1) & (self._generator.random(ids.shape) < REPLACED)
        drawn = 1 + (self._generator.random(ids.shape) * np.maximum(given - 2, 1)).astype(np.int64)
        return np.where(replaced, np.take_along_axis(self._donors["input_ids"][donors], drawn, 1), ids).astype(
            ids.dtype
        )
