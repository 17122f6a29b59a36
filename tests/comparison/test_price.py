"""What a hotfix costs on its own rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.cli.fit import priced
from atpatch_onnx.comparison.price import Price, price_of
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.datasets import load_dataset

from ..debugset.digits import DIGITS


def spread(median: float) -> dict[str, float]:
    return {"median": median, "low": median, "high": median, "p95": median}


def timed(ratio: float) -> dict[str, Any]:
    return {"original": spread(2.0), "patched": spread(2 * ratio), "ratio": spread(ratio), "requests": 10}


def test_unflagged_and_flagged_rows_are_timed() -> None:
    hotfix = Hotfix.load(DIGITS / "model.hotfix")
    price = price_of(DIGITS / "model.onnx", hotfix, load_dataset(DIGITS / "debug.npz"), seconds=0.2, threads=1)
    assert set(price.latency) == {"clean", "flagged"}
    assert price.latency["flagged"]["ratio"]["median"] > 1
    assert price.latency["clean"]["requests"] >= 10
    assert price.flag_rate == hotfix.evidence["report"]["clean_flagged"]["rate"]
    clean = load_dataset(DIGITS / "clean.npz")
    calm = price_of(DIGITS / "model.onnx", hotfix, clean, seconds=0.01, threads=1)
    assert set(calm.latency) == {"clean"}


def test_a_row_with_a_labeled_column_is_not_clean_though_it_has_no_partner() -> None:
    data = load_dataset(DIGITS / "debug.npz")
    assert data.columns is not None and data.pair is not None
    attacked = np.flatnonzero(data.columns.any(1))
    alone = replace(data, pair=np.full(len(data), -1))
    assert np.array_equal(alone.unlabeled, np.setdiff1d(np.arange(len(data)), attacked))
    price = price_of(DIGITS / "model.onnx", Hotfix.load(DIGITS / "model.hotfix"), alone, seconds=0.01, threads=1)
    assert set(price.latency) == {"clean", "flagged"}


def test_a_price_that_cannot_be_measured_takes_nothing_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hotfix is written by then: the file of the model went, or the machine has no memory left."""
    hotfix, rows = Hotfix.load(DIGITS / "model.hotfix"), load_dataset(DIGITS / "debug.npz")
    assert priced(str(tmp_path / "gone.onnx"), hotfix, (rows, None), 1.0, 1) is None
    told = " ".join(capsys.readouterr().err.split())
    assert "what requests cost could not be measured" in told and "gone.onnx" in told
    assert priced("", hotfix, (rows, None), 0.0, 1) is None and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("latency", "rate", "day"),
    [
        ({"clean": 1.01, "flagged": 1.9}, 0.02, 0.98 * 1.01 + 0.02 * 1.9),
        ({"clean": 1.01}, 0.0, 1.01),
        ({"flagged": 1.1}, 1.0, 1.1),
        ({"clean": 1.01}, 0.02, None),
        ({"clean": 1.01, "flagged": 1.9}, None, None),
    ],
)
def test_a_day_of_traffic(latency: dict[str, float], rate: float | None, day: float | None) -> None:
    price = Price({kind: timed(ratio) for kind, ratio in latency.items()}, rate)
    assert price.day == (None if day is None else pytest.approx(day))
    assert price.to_json() == {**price.latency, "flag_rate": rate, "day": price.day}
    assert ("a day of traffic" in price.in_words()) == (day is not None)


def test_it_is_told_in_a_sentence() -> None:
    price = Price({"clean": timed(1.012), "flagged": timed(1.9)}, 0.02)
    assert price.in_words() == (
        "a request that is not flagged takes 1.01 times as long (2 → 2.02 ms), a flagged one takes 1.90 times as long"
        " (2 → 3.8 ms), a day of traffic, 2.0% of it flagged, 1.03 times as long"
    )
