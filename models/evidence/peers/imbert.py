"""IMBERT by attention (He et al. 2023): the tokens that draw most attention at the last layer are deleted.

Attention is the mean over heads and query rows; [CLS], [SEP] and padding stay. At most TOP tokens of a request go, as
in the authors' commands; and only those above a bar, in multiples of what every token would draw if all drew the same.
The authors set the bar by hand; here it is set on spare rows. Costs a second run of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from atpatch_onnx.benchmark.paired_latency import Request
from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.runner import expose

from ..answers import MASK, Figures
from ..case import Case
from ..latency import Feeds, ratio, requests, samples
from .editing import Scored, Scores, deleting, first_rows

__all__ = ["TOP", "drawn", "run"]

TOP = 4
MOST_SPARE = 1000


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures at both bars, and the cost."""
    capture = Capture(case.model, case.folder, case.sites[-1:], case.spare, None, case.threads, mask=MASK)
    (last,) = capture.sites

    def scored(data: DataSet) -> Scored:
        scores = np.full(data.inputs[MASK].shape, -np.inf)
        for rows, sites in capture.batches(data, np.arange(len(data))):
            looked = sites[last.id].map.mean((1, 2))
            scores[rows, : looked.shape[1]] = looked
        return Scored(data, drawn(scores, data.inputs[MASK]))

    say(f"attention of {last.id}")
    spare = first_rows(case.spare, MOST_SPARE)
    figures = deleting(case, *(scored(data) for data in (spare, case.clean, case.attacked)))
    return {**figures, "runs": 2, "latency": _cost(case, last.probabilities)}


def drawn(attention: Scores, mask: Scores) -> Scores:
    """Scores of tokens: attention × tokens of the request; -inf for all but the TOP of the inner tokens.

    Args:
        attention: (N, K), of each column.
        mask: (N, K), 0 at padding.
    """
    lengths = (mask != 0).sum(1, keepdims=True)
    place = np.arange(mask.shape[1])
    scores = np.where((place > 0) & (place < lengths - 1), attention * lengths, -np.inf)
    least = np.sort(scores, axis=1)[:, -TOP][:, None]
    return np.where(scores >= least, scores, -np.inf)


def _cost(case: Case, probabilities: str) -> Figures:
    """Of a request that is read with its last map, and asked again."""
    plain = requests(case, None)
    reading = requests(case, expose(case.model, [(probabilities, onnx.TensorProto.FLOAT)]))

    def guarded(feeds: Feeds) -> Request:
        read, again = reading(feeds), plain(feeds)

        def ask() -> object:
            read()
            return again()

        return ask

    return ratio(plain, guarded, samples(case))
