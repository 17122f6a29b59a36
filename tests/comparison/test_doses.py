"""Triggered rows by copies of the trigger: figures, JSON, tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.comparison.comparer import compare
from atpatch_onnx.comparison.result import Comparison
from atpatch_onnx.comparison.tables import tables_of

from ..schemas import problems


@pytest.fixture(scope="module")
def doses(case, tmp_path_factory) -> Path:
    """The triggered set, two rows in three with one copy and the rest with four."""
    path = tmp_path_factory.mktemp("doses") / "doses.npz"
    arrays = dict(np.load(case.triggered))
    count = len(arrays["clean_row"])
    np.savez(path, **arrays, dose=np.where(np.arange(count) % 3 == 2, 4, 1))
    return path


def compared(case, triggered: Path) -> Comparison:
    return compare(case.model, case.patched, case.clean, triggered=triggered, seconds=0, threads=1, exemplar=False)


def test_doses_add_up_to_the_figures_of_all_triggered_rows(case, doses) -> None:
    comparison = compared(case, doses)
    found = comparison.to_json()["doses"]
    assert list(found) == ["1", "4"]
    for graph in ("original", "patched"):
        whole = comparison.figures[graph].shares
        for name, total in (("asr", "asr"), ("asr_star", "asr_star"), ("flagged", "triggered_flagged")):
            if total not in whole:
                assert all(name not in found[copies][graph] for copies in found)
                continue
            shares = [found[copies][graph][name] for copies in found]
            assert sum(one["hits"] for one in shares) == whole[total].hits
            assert sum(one["count"] for one in shares) == whole[total].count
            assert all(one["low"] <= one["value"] <= one["high"] for one in shares)
    assert found["4"]["patched"]["flagged"]["count"] == (np.load(doses)["dose"] == 4).sum()


def test_doses_are_a_table_and_are_saved(case, doses, tmp_path) -> None:
    comparison = compared(case, doses)
    (table,) = [table for table in tables_of(comparison) if table.key == "doses"]
    assert [row[0] for row in table.rows] == ["1", "4"] and "ASR*, patched" in table.columns
    comparison.save(tmp_path / "run.npz")
    assert Comparison.load(tmp_path / "run.npz").to_json() == comparison.to_json()


def test_without_doses_there_is_no_table(case) -> None:
    comparison = compared(case, case.triggered)
    assert comparison.to_json()["doses"] == {}
    assert not [table for table in tables_of(comparison) if table.key == "doses"]


def test_the_command_reports_doses_as_its_schema_says(case, doses, atpatch) -> None:
    run = atpatch("compare", *case.arguments, "--triggered", doses, "--json")
    assert run.code == 0 and run.json["doses"].keys() == {"1", "4"} and not problems("compare", run.json)
    assert problems("compare", {**run.json, "doses": {"1": {"patched": {"asr": 0.5}}}})
