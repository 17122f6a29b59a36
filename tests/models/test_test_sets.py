"""What the test sets of several seeds share, and that the evidence is judged by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.evidence import test_sets
from models.evidence.estimates import OVERLAPS
from models.evidence.measures import at, fits, left, mean_of, only, victims_of
from models.evidence.settings import SEEDS
from models.images import digits
from models.tables import data as tables

EVIDENCE = Path(__file__).parents[2] / "models" / "results" / "evidence.json"


def run(setting: str, seed: int) -> dict[str, Any]:
    share = {"hits": 0, "count": 1000, "value": 0.0, "low": 0.0, "high": 0.0}
    return {
        "setting": setting,
        "seed": seed,
        "victim": {"seed": seed, "model": {"asr": share}},
        "steps": {"fit": {"patched": {"asr": share}}},
    }


def made(setting: str, known: dict[str, Any]) -> dict[str, Any]:
    return {
        "settings": [{"name": setting, "group": "images"}],
        "runs": [run(setting, seed) for seed in SEEDS],
        "test_sets": known,
    }


APART = {"mnist": {str(one): {str(other): float(one == other) for other in SEEDS} for one in SEEDS}}


def test_different_requests_of_several_seeds_make_an_interval_narrower() -> None:
    apart, same = (made("mnist-vit-badnets", known) for known in (APART, {}))
    for measure, read in ((left("asr"), fits), (only("model", "asr"), lambda some: {"x": victims_of(some, NAME)})):
        narrow, wide = (mean_of(read(some), measure) for some in (apart, same))
        assert narrow is not None and wide is not None
        assert narrow.high == pytest.approx(wide.high / 3, rel=0.01)


NAME = "mnist-vit-badnets"


def test_a_data_set_is_known_by_the_first_word_of_a_setting() -> None:
    found = fits(made("offenseval-badnets", APART))["offenseval-badnets"]
    assert not any(OVERLAPS in figures["patched"]["asr"] for figures in found.values())
    assert test_sets.data_set("mnist-vit-badnets") == "mnist"


def test_data_that_are_not_here_leave_what_was_found_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(digits, "rows", missing)
    monkeypatch.setattr(tables, "READERS", dict.fromkeys(tables.READERS, missing))
    assert test_sets.overlaps(APART) == APART


def test_digits_of_three_seeds_share_a_fifth() -> None:
    found = test_sets.overlaps({})["mnist"]
    assert json.loads(json.dumps(found)) == found
    for one in SEEDS:
        parts = digits.rows(one)
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(5000))
        for other in SEEDS:
            expected = len(set(parts["test"]) & set(digits.rows(other)["test"])) / 1000
            assert found[str(one)][str(other)] == pytest.approx(expected)
            assert one == other or 0.15 < expected < 0.25


def test_the_evidence_file_says_what_test_sets_share() -> None:
    """And counts as many requests as it says: a run of a table has the whole of its test set."""
    evidence = json.loads(EVIDENCE.read_text())
    assert evidence["test_sets"].keys() >= {"mnist", "adult"}
    assert evidence["test_sets"]["adult"]["0"]["1"] == 1
    for name in ("adult-race", "adult-gender", "adult-age"):
        for figures in fits(evidence)[name].values():
            assert at(figures, ("patched", "accuracy", "count")) == 16_281
