"""What clean rows show beyond their columns: how scores grow with a request's length, and how sure the model is.

Both are for calibrations without data. Random tokens are no sentences: the margins of most of them are smaller than
those of an attack, and a few long ones would set the threshold for all lengths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewriters.detector_kinds import MOST_LENGTH

from ..inference.datasets import Ints
from ..inference.prediction import class_scores
from ..inference.runner import Runner
from .training import Context

__all__ = ["length_factors", "margins"]

HIGH = 0.9
"""Quantile of the peaks of one length whose growth is measured: higher ones hang on single rows."""
BINS, LEAST_ROWS = 6, 20
"""Lengths are sorted into so many bins of equally many rows, of which each should hold that many."""
STEEPEST = 0.5
"""Peaks of SST-2's sentences, and those of a trigger, grow with the root of the length; random tokens grow less."""
BEYOND = 2
"""Factors go on up to this multiple of the longest row; a longer request gets the last one."""
KNOTS = 12


def length_factors(peaks: NDArray[np.float64], lengths: Ints) -> NDArray[np.float32] | None:
    """`OneClass.by_length` that takes out the growth of high peaks: a power of the length, 1 at the median.

    Args:
        peaks, lengths: (N,), of clean rows.

    Returns: None where lengths or rows are too few, or peaks do not grow.
    """
    places = np.quantile(lengths, np.linspace(0, 1, BINS + 1))
    bins = np.clip(np.searchsorted(places, lengths, side="right") - 1, 0, BINS - 1)
    if len(peaks) < BINS * LEAST_ROWS or (np.diff(places) <= 0).any() or len(np.unique(bins)) < BINS:
        return None
    levels = np.array([np.quantile(peaks[bins == one], HIGH) for one in range(BINS)])
    if (levels <= 0).any():
        return None
    middles = [np.log(lengths[bins == one]).mean() for one in range(BINS)]
    power = min(float(np.polyfit(middles, np.log(levels), 1)[0]), STEEPEST)
    if power <= 0:
        return None
    last = min(BEYOND * int(lengths.max()), MOST_LENGTH)
    known = np.unique(np.rint(np.geomspace(int(lengths.min()), last, KNOTS)))
    return np.column_stack([known, (np.median(lengths) / known) ** power]).astype(np.float32)


def margins(context: Context, rows: Ints, output: str) -> NDArray[np.float32] | None:
    """(N,): how far the highest class score is above the second highest; nan in rows not asked for. None where there is
    only one score, which a graph need not say.
    """
    runner = Runner(context.model, context.folder, context.threads).without_padding(context.mask)
    scores = np.sort(class_scores(runner, context.data, rows, output), 1)
    return np.asarray(scores[:, -1] - scores[:, -2]) if scores.shape[1] > 1 else None
