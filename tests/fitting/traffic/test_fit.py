"""A hotfix from rows of live requests, with and without attacks among them."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx import AtpatchError
from atpatch_onnx.fitting.traffic.collector import Row
from atpatch_onnx.fitting.traffic.fit import fit_on_traffic

from ...serve.load import DEMO


def rows(attacks: int) -> list[Row]:
    """200 requests to the demo model, some of them triggered."""
    clean, triggered = (
        np.load(DEMO / f"{name}.npz")["pixel_values"].reshape(-1, 1, 8, 8) for name in ("clean", "triggered")
    )
    images = clean[:200].copy()
    places = np.linspace(5, 190, attacks).astype(int)
    images[places] = triggered[places]
    return [{"pixel_values": image[None].astype(np.float32)} for image in images]


def test_rows_that_are_too_few_are_refused() -> None:
    with pytest.raises(AtpatchError, match="ATP056"):
        fit_on_traffic(DEMO / "model.onnx", rows(0)[:2], threads=1)
