"""Thresholds are read off logits, and compared with float32 scores in a graph."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx.fitting.calibration import thresholds


@pytest.mark.parametrize("logit", [-3.0, -0.5, 0.0, 0.25, 2.0, 7.0])
def test_a_threshold_lies_above_the_score_of_its_own_logit(logit: float) -> None:
    """The clean row that sets the lowest threshold is not flagged by it."""
    clean, anomalous = np.array([-9.0, logit]), np.array([logit + 5.0])
    lowest = np.float32(thresholds(clean, anomalous, 0.0)[0])
    score = np.float32(1 / (1 + np.exp(-np.float64(logit))))
    assert lowest > score
    assert lowest == np.nextafter(score, np.float32(2))
