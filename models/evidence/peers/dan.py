"""DAN (Chen et al. 2022): how far a request's hidden states lie from those of clean samples, layer by layer.

Per layer the Mahalanobis distance to the nearest class mean, with one covariance for all classes; distances are brought
to one scale on clean rows that made no mean, and joined over layers by their mean or their largest, whichever does
better on the test set: the peer gets the benefit. States are those of the first token where it is [CLS], else the mean
over tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from atpatch_onnx.benchmark.paired_latency import Request
from atpatch_onnx.inference.datasets import DataSet, Ints
from atpatch_onnx.inference.runner import Runner, expose

from ..answers import BATCH, Figures
from ..case import Case
from ..latency import Feeds, ratio, requests, samples
from .refusal import RATES, refusing

__all__ = ["run", "states"]

Floats = NDArray[np.float64]

TINY = 1e-6


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures at each refusal rate, and the cost."""
    names, pooled = states(case), "swin" in case.setting.name
    model = expose(case.model, [(name, onnx.TensorProto.FLOAT) for name in names])
    asked = case.ask(model)

    def read(data: DataSet, rows: Ints) -> list[Floats]:
        # Piece by piece: whole states of all tokens would fill the memory.
        found: list[list[Floats]] = [[] for _ in names]
        for piece in np.split(rows, range(BATCH, len(rows), BATCH)):
            more = asked.rows(data, piece, more=names).more
            for kept, name in zip(found, names, strict=True):
                kept.append(_state(more[name], pooled))
        return [np.concatenate(kept) for kept in found]

    assert case.debug.columns is not None and case.debug.labels is not None
    fitted = np.flatnonzero(~case.debug.columns.any(1))
    found = read(case.debug, fitted)
    # The embedding of [CLS] is the same in every request.
    telling = [index for index, state in enumerate(found) if state.std(0).max() > TINY * np.abs(state).max()]
    names = [names[index] for index in telling]
    layers = [_Layer(found[index], case.debug.labels[fitted]) for index in telling]
    spare, clean, attacked = (
        np.stack([layer.distance(state) for layer, state in zip(layers, read(data, np.arange(len(data))), strict=True)])
        for data in (case.spare, case.clean, case.attacked)
    )
    center, spread = spare.mean(1, keepdims=True), spare.std(1, keepdims=True)
    joined = {
        way: refusing(case, *(join((part - center) / spread, 0) for part in (spare, clean, attacked)))
        for way, join in (("mean", np.mean), ("max", np.max))
    }
    way = min(joined, key=lambda way: float(joined[way][f"{RATES[0]:g}"]["asr_star"]["value"]))
    say(f"{len(names)} layers, joined by their {way}")

    plain, exposed = requests(case, None), Runner(model, case.folder, 1)
    wanted = [asked.output, *names]

    def guarded(feeds: Feeds) -> Request:
        data, row = DataSet(feeds), np.zeros(1, np.int64)

        def ask() -> object:
            _, outputs = next(exposed.batches(data, row, 1, wanted))
            return [layer.distance(_state(outputs[name], pooled)) for layer, name in zip(layers, names, strict=True)]

        return ask

    return {
        "runs": 1,
        "layers": len(names),
        "joined": way,
        "rates": joined[way],
        "latency": ratio(plain, guarded, samples(case)),
    }


def states(case: Case) -> list[str]:
    """Hidden states (B, tokens, width) of the commonest shape, in graph order: sums and norms that several nodes read,
    and the last one.
    """
    made = [
        node.output[0]
        for node in case.model.graph.node
        if node.op_type in ("Add", "LayerNormalization", "SkipLayerNormalization")
    ]
    readers = Counter(name for node in case.model.graph.node for name in set(node.input))
    runner = Runner(expose(case.model, [(name, onnx.TensorProto.FLOAT) for name in made]), case.folder, 1)
    _, outputs = next(runner.batches(case.clean, np.zeros(1, np.int64), 1, made))
    shaped = [
        name for name in made if outputs[name].ndim == 3 and outputs[name].shape[0] == 1 and outputs[name].shape[1] > 1
    ]
    usual, _ = Counter(outputs[name].shape for name in shaped).most_common(1)[0]
    shaped = [name for name in shaped if outputs[name].shape == usual]
    return [name for name in shaped if readers[name] > 1 or name == shaped[-1]]


class _Layer:
    """Class means and one covariance of a layer's clean states (N, D)."""

    def __init__(self, found: Floats, labels: Ints) -> None:
        from sklearn.covariance import LedoitWolf

        classes: Sequence[int] = np.unique(labels).tolist()
        self._means = np.stack([found[labels == one].mean(0) for one in classes])
        _, index = np.unique(labels, return_inverse=True)
        precision = LedoitWolf(assume_centered=True).fit(found - self._means[index]).precision_
        # |Lᵀ(x - m)|² = (x - m)ᵀ P (x - m) with P = L Lᵀ.
        values, vectors = np.linalg.eigh(precision)
        self._root = vectors * np.sqrt(np.clip(values, 0, None))
        self._means = self._means @ self._root

    def distance(self, found: Floats) -> Floats:
        """(N, D) → (N,), to the nearest class."""
        away = (found @ self._root)[:, None, :] - self._means
        return np.asarray(np.sqrt((away**2).sum(2).min(1)))


def _state(found: NDArray[np.floating], pooled: bool) -> Floats:
    return np.asarray(found.mean(1) if pooled else found[:, 0], np.float64)
