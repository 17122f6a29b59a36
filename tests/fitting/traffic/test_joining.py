"""One data set from rows of different lengths."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx import AtpatchError
from atpatch_onnx.fitting.traffic.joining import join_rows
from atpatch_onnx.inference.datasets import DataSet


def text(*tokens: int, mask: str = "attention_mask") -> dict[str, np.ndarray]:
    ids = np.array([tokens], np.int64)
    return {"input_ids": ids, mask: np.ones_like(ids), "temperature": np.array([0.5], np.float32)}


@pytest.mark.parametrize("mask", ["attention_mask", "pad"])
def test_1_texts_are_padded_with_zeros_to_the_longest(mask: str) -> None:
    arrays, left_out = join_rows([text(5, 6, mask=mask), text(7, mask=mask), text(1, 2, 3, mask=mask)], mask)
    assert left_out == 0 and arrays["temperature"].shape == (3,)
    assert arrays["input_ids"].tolist() == [[5, 6, 0], [7, 0, 0], [1, 2, 3]]
    assert arrays[mask].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]


def test_2_of_other_inputs_the_most_frequent_shape_is_kept() -> None:
    rows = [{"x": np.full((1, width), number)} for number, width in enumerate((3, 4, 4, 5, 4))]
    arrays, left_out = join_rows(rows)
    assert left_out == 2 and arrays["x"].tolist() == [[1] * 4, [2] * 4, [4] * 4]


def test_strings_come_as_a_data_set_has_them() -> None:
    arrays, _ = join_rows([{"s": np.array([["long text"]], object)}, {"s": np.array([["a"]], object)}])
    assert DataSet.from_arrays(arrays).inputs["s"].tolist() == [["long text"], ["a"]]


def test_without_a_row_there_is_nothing_to_fit_on() -> None:
    with pytest.raises(AtpatchError, match="ATP056"):
        join_rows([])
