"""A hotfix from rows of live requests, with and without attacks among them."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx import AtpatchError
from atpatch_onnx.fitting.traffic.collector import Row
from atpatch_onnx.fitting.traffic.fit import fit_on_traffic

from ...serve.load import DEMO


def rows(count: int) -> list[Row]:
    """Requests to the demo model."""
    images = np.load(DEMO / "clean.npz")["pixel_values"][:count].reshape(-1, 1, 1, 8, 8)
    return [{"pixel_values": image.astype(np.float32)} for image in images]


def test_a_hotfix_comes_of_rows_alone() -> None:
    hotfix = fit_on_traffic(DEMO / "model.onnx", rows(80), threads=1)
    assert hotfix.detector == "oneclass"
    parts = hotfix.evidence["rows"]
    assert sum(part["clean"] for part in parts.values()) == 80


def test_rows_that_are_too_few_are_refused() -> None:
    with pytest.raises(AtpatchError, match="ATP056"):
        fit_on_traffic(DEMO / "model.onnx", rows(2), threads=1)
