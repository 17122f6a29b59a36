"""Maps and values in canonical form, as `fit` reads them."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx.inference.capture import canonical_map, canonical_values
from rewriters.finding.finder import find_sites
from tests.rewriters.patterns import PATTERNS, SIZES


@pytest.mark.parametrize(
    "name", ["15-einsum", "15-xlnet", "15-einsum-keys-first", "15-einsum-multi-query", "15-values-of-lower-rank"]
)
def test_canonical_form_broadcasts_to_the_product(name: str) -> None:
    """Values shared by all heads, or by all samples, have an axis of size 1 there."""
    pattern = next(p for p in PATTERNS if p.id == name)
    (site,), _ = find_sites(pattern.model)
    p = np.zeros(
        [
            {"b": 2, "h": 3, "n": 3, "q": 5, "i": 5, "k": 7, "j": 7}[letter]
            for letter in {"15-einsum-keys-first": "bkqh"}.get(name, "bhqk")
        ]
    )
    a = canonical_map(site, p)
    v = canonical_values(site, pattern.feeds()["v"])
    assert (a.shape, v.ndim, v.shape[2:]) == (
        (SIZES["B"], SIZES["H"], SIZES["S"], SIZES["T"]),
        4,
        (SIZES["T"], SIZES["D"]),
    )
    assert np.matmul(a, v).shape == (SIZES["B"], SIZES["H"], SIZES["S"], SIZES["D"])
