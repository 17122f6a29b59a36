"""The pixel mask: the pixels of a trigger that is known are replaced by their mean over clean images, in every request.

What anybody would do who knows where the trigger is; nothing is learned or tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.benchmark.paired_latency import Request
from atpatch_onnx.inference.datasets import DataSet

from ..answers import Figures
from ..case import Case
from ..latency import Feeds, ratio, requests, samples
from .editing import answered

__all__ = ["run", "touched"]


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures, and the cost."""
    (name,) = case.spare.inputs
    pixels, mean = touched(case.debug, name), case.spare.inputs[name].mean(0)
    say(f"{pixels.sum()} of {pixels.size} pixels")

    def masked(feeds: Feeds) -> Feeds:
        return {name: np.where(pixels, mean, feeds[name]).astype(feeds[name].dtype)}

    plain = requests(case, None)

    def guarded(feeds: Feeds) -> Request:
        return lambda: plain(masked(feeds))()

    sets: list[DataSet] = [replace(data, inputs=masked(dict(data.inputs))) for data in (case.clean, case.attacked)]
    return {
        **answered(case, *sets),
        "pixels": int(pixels.sum()),
        "runs": 1,
        "latency": ratio(plain, guarded, samples(case)),
    }


def touched(debug: DataSet, name: str) -> NDArray[np.bool_]:
    """Pixels (C, H, W) in which any triggered image of a debugging set differs from its clean partner."""
    assert debug.pair is not None and debug.columns is not None
    rows = np.flatnonzero(debug.columns.any(1) & (debug.pair >= 0))
    images = debug.inputs[name]
    return np.asarray((images[rows] != images[debug.pair[rows]]).any(0))
