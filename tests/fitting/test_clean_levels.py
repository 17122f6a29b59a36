"""How scores grow with the length, and how sure a model is of its answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from atpatch_onnx.fitting.clean_levels import length_factors, margins
from atpatch_onnx.fitting.splits import Part, Split
from atpatch_onnx.fitting.training import Context
from atpatch_onnx.inference.datasets import DataSet
from rewriters.plan import OneClass


def drawn(power: float, rows: int = 600, longest: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Peaks that grow with a power of the length, spread around it, and the lengths."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(6, longest + 1, rows)
    return lengths**power * rng.gamma(20, 1 / 20, rows), lengths


@pytest.mark.parametrize(("power", "found"), [(0.2, 0.2), (0.4, 0.4), (0.9, 0.5)], ids=str)
def test_the_growth_is_taken_out(power: float, found: float) -> None:
    """A growth that is steeper than that of sentences is none of the length."""
    peaks, lengths = drawn(power)
    known = length_factors(peaks, lengths)
    assert known is not None
    left = np.polyfit(np.log(known[:, 0]), np.log(known[:, 1]), 1)[0]
    assert left == pytest.approx(-found, abs=0.06)
    assert np.interp(np.median(lengths), *known.T) == pytest.approx(1, abs=0.03)
    assert (known[0, 0], known[-1, 0]) == (6, 100)
    assert OneClass(np.ones(2), np.ones((2, 1)), False, 0.0, by_length=known).fits_lengths


def test_only_high_peaks_count() -> None:
    """One text of five grows with its length, the others do not."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(6, 51, 900)
    peaks = np.where(rng.random(900) < 0.2, 5 * lengths**0.4, 1.0)
    known = length_factors(peaks, lengths)
    assert known is not None
    assert np.polyfit(np.log(known[:, 0]), np.log(known[:, 1]), 1)[0] == pytest.approx(-0.4, abs=0.06)


def test_half_of_the_rows_give_nearly_the_same() -> None:
    peaks, lengths = drawn(0.3)
    whole, half = length_factors(peaks, lengths), length_factors(peaks[::2], lengths[::2])
    assert whole is not None and half is not None
    places = np.arange(6, 101)
    at = [np.interp(places, *known.T) for known in (whole, half)]
    np.testing.assert_allclose(*at, rtol=0.12)


@pytest.mark.parametrize(
    ("peaks", "lengths"),
    [
        drawn(0.3, rows=119),
        (np.ones(600), np.full(600, 20)),
        (np.ones(600), np.arange(600) % 4 + 6),
        (np.ones(123), np.repeat(np.arange(5, 11), [21, 21, 20, 20, 20, 21])),
        drawn(-0.3),
        (np.zeros(600), drawn(0.3)[1]),
    ],
    ids=["few-rows", "one-length", "few-lengths", "bin-without-a-length", "falling", "no-scores"],
)
def test_without_growth_or_lengths_there_is_nothing_to_take_out(peaks: np.ndarray, lengths: np.ndarray) -> None:
    assert length_factors(peaks, lengths) is None


def test_margins_are_between_the_two_highest_scores_of_the_rows_asked_for(tmp_path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[B, 3] x) => (float[B, 3] y) { y = Identity (x) }'
    none = np.zeros(0, np.int64)
    rows = np.float32([[1, 5, 3], [-2, -9, -4], [7, 7, 0], [0, 1, 2]])
    data = DataSet({"x": rows}, columns=np.zeros((4, 0), bool))
    split = Split(*[Part(none, none)] * 3)
    context = Context(onnx.parser.parse_model(text), tmp_path, data, split, 0, 0.0, 1, lambda *_: None)
    found = margins(context, np.array([0, 1, 2]), "y")
    np.testing.assert_array_equal(found, np.float32([2, 2, 0, np.nan]))
    np.testing.assert_array_equal(margins(replace(context, data=data), np.array([3]), "y")[3], np.float32(1))
    one = replace(context, data=DataSet({"x": rows[:, :1]}, columns=data.columns))
    one.model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    assert margins(one, np.array([0, 1]), "y") is None
