"""`compare` says how many rows are shorter or longer than any that the hotfix was fitted on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atpatch_onnx.comparison.comparer import compare
from atpatch_onnx.comparison.setup import length_warnings
from atpatch_onnx.comparison.tables import tables_of
from atpatch_onnx.inference.datasets import as_dataset
from rewriters.editing.patcher import patch
from rewriters.model.forms import read
from rewriters.plan import PatchPlan, SitePlan, Static
from tests.rewriters.graphs import K, attention_block, feeds


def models(lengths: tuple[int, int] | None) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A block with the padding mask "mask", and its patch that has seen requests of these lengths."""
    block = attention_block()
    block.model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ["B", "K"]))
    plan = PatchPlan({block.site.id: SitePlan(Static())}, lengths=lengths)
    return block.model, patch(block.model, plan, [replace(block.site, key_mask="mask")])


def rows(*lengths: int) -> dict[str, np.ndarray]:
    return {**feeds(), "mask": (np.arange(K) < np.array(lengths)[:, None]).astype(np.int64)}


@pytest.mark.parametrize(("lengths", "outside"), [((3, 4, 5), 0), ((2, 4, 7), 2)])
def test_rows_beyond_the_lengths_of_the_fit_are_counted_and_noted(lengths: tuple[int, ...], outside: int) -> None:
    original, patched = models((3, 5))
    result = compare(original, patched, rows(*lengths), classes=False, seconds=0)
    seen = result.to_json()["setup"]["lengths"]
    assert seen == {"shortest": 3, "longest": 5, "outside": {"clean": {"k": outside, "n": 3}}}
    tables = list(tables_of(result))
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    notes = [note for table in tables for note in table.notes]
    assert any("2 of 3 clean rows are shorter or longer" in note for note in notes) == bool(outside)


def test_nothing_is_said_where_the_lengths_of_the_fit_are_not_known() -> None:
    _, patched = models(None)
    assert length_warnings(read(patched), {"clean": as_dataset(rows(1, 2, 3))}) == {}
