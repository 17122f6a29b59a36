"""The paper's detector, against torch's convolution."""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.plan import Cnn, Conv, Dense
from rewriters.subgraphs.detectors.cnn import logits, scores
from tests import oracle

from ..emitted import ran
from .maps import A, context


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32) * np.float32(0.5)


NETS = {
    "one": Cnn((Conv(floats(2, 1, 3, 3), floats(2)),), (Dense(floats(72, 6), floats(6)),)),
    "strided": Cnn(
        (Conv(floats(2, 1, 3, 3), floats(2), stride=2), Conv(floats(3, 2, 2, 2), floats(3), padding=0)),
        (Dense(floats(12, 5), floats(5)), Dense(floats(5, 6), floats(6))),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_probabilities(name: str) -> None:
    got = ran(lambda e: scores(e, context("plain"), NETS[name]), a=A)
    want = oracle.cnn(A, NETS[name])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    before = ran(lambda e: logits(e, context("plain"), NETS[name]), a=A)
    np.testing.assert_allclose(before, np.log(want / (1 - want)), rtol=1e-3, atol=1e-4)
