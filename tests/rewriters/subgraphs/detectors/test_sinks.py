"""Attention sinks, at positions that count valid columns."""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.emit import Emitter
from rewriters.subgraphs.detectors.sinks import sinks, without_sinks

from ..emitted import ran
from .maps import A, context

SHIFTED = np.array([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]], bool)
PLACES = {
    "first": ((0,), {"plain": [[0]], "masked": [[1], [0]]}),
    "last": ((-1,), {"plain": [[5]], "masked": [[4], [3]]}),
    "both": ((0, -1), {"plain": [[0, 5]], "masked": [[1, 4], [0, 3]]}),
    "three": ((1, 2, -2), {"plain": [[1, 2, 4]], "masked": [[2, 3], [1, 2]]}),
    "beyond": ((9, -9), {"plain": [[]], "masked": [[], []]}),
}


@pytest.mark.parametrize("conditional", [True, False], ids=["if", "none"])
@pytest.mark.parametrize("kind", ["plain", "masked"])
@pytest.mark.parametrize("name", PLACES)
def test_positions(name: str, kind: str, conditional: bool) -> None:
    exempt, expected = PLACES[name]
    got = ran(lambda e: str(sinks(e, context(kind), exempt)), a=A, valid=SHIFTED, conditional=conditional)
    real = got & SHIFTED if kind == "masked" else got
    assert [np.flatnonzero(row).tolist() for row in real] == expected[kind]


def test_sinks_score_nothing() -> None:
    score = np.arange(12, dtype=np.float32).reshape(2, 6)
    got = ran(lambda e: without_sinks(e, context("plain"), "score", (0, -2)), a=A, score=score)
    assert np.isneginf(got[:, [0, 4]]).all() and (got[:, [1, 2, 3, 5]] == score[:, [1, 2, 3, 5]]).all()


def test_nothing_is_exempt() -> None:
    def emit(e: Emitter) -> str:
        assert sinks(e, context("masked"), ()) is None
        assert without_sinks(e, context("masked"), "a", ()) == "a" and not e.nodes
        return e.op("Identity", "a")

    assert ran(emit, a=A).shape == A.shape
