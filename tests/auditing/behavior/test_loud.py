"""Loud sites: a row that stands out of its site's rows, by what noise does, and not by one number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import atpatch_onnx
from atpatch_onnx.auditing.auditor import audit
from atpatch_onnx.auditing.behavior.loud import LEVEL, loudness_of, noise_bound

DIGITS = Path(atpatch_onnx.__file__).parent / "demo" / "digits"


@pytest.mark.parametrize(("rows", "sites"), [(64, 1), (64, 12), (20, 4)])
def test_noise_alone_is_a_finding_as_rarely_as_promised(rows: int, sites: int) -> None:
    bound = noise_bound(rows, sites, 0)
    noise = np.exp(np.random.default_rng(1).normal(1, 0.4, (600, sites, rows)))
    places = np.zeros(rows, np.int64)
    loud = [max(loudness_of("s", values, places, bound).excess for values in audited) for audited in noise]
    assert np.mean(np.array(loud) > 1) <= 3 * LEVEL


def test_a_row_far_above_the_others_stands_out_and_a_loud_site_does_not() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 0.3, 64))
    bound, places = noise_bound(64, 4, 0), np.arange(64)
    assert loudness_of("s", 50 * values, places, bound).excess < 1
    values[17] = 30
    found = loudness_of("s", values, places, bound)
    assert found.excess > 1 and found.column == 17


def test_rows_that_are_equal_and_rows_that_are_few_prove_nothing() -> None:
    same = np.ones(64)
    assert loudness_of("s", same, np.zeros(64, np.int64), noise_bound(64, 1, 0)).excess == 0
    assert loudness_of("s", np.array([1.0, 99.0]), np.zeros(2, np.int64), None).excess == 0


@pytest.mark.slow
def test_the_clean_digits_have_no_loud_site() -> None:
    rows = dict(np.load(DIGITS / "clean.npz"))
    found = audit(
        DIGITS / "model.onnx", clean={name: array[:64] for name, array in rows.items()}, budget=0.5, threads=1
    )
    levels = [one.excess for one in found.behavior.loudness]
    assert len(levels) == 4 and 0 < max(levels) < 1
    assert "AUD205" not in {one.code for one in found.findings}
