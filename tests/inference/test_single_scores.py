"""Thresholds of models with one score for each row: a score, or a rank among the clean rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.inference.single_scores import Threshold, find_threshold

KINDS = {np.float16: TensorProto.FLOAT16, np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE}


def found(scores: np.ndarray, wanted: float | str, **known: Any) -> Threshold:
    """Of a model that gives these scores."""
    kind = KINDS[scores.dtype.type]
    values = [helper.make_tensor_value_info(name, kind, ["batch", *scores.shape[1:]]) for name in ("x", "score")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["score"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    output, threshold = find_threshold(Runner(model, Path(), 1), DataSet({"x": scores}, **known), None, wanted)
    assert output == "score"
    return threshold


def above(threshold: Threshold, scores: np.ndarray) -> list[int]:
    return np.flatnonzero(threshold.scores(np.arange(len(scores)), scores).argmax(1)).tolist()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("flat", [True, False], ids=["(B,)", "(B, 1)"])
@pytest.mark.parametrize(
    ("count", "rank", "top"),
    [(10, "top10%", 1), (11, "top10%", 1), (11, "top90%", 9), (30, "top20%", 6), (2, "top1%", 1)],
)
def test_a_rank_lies_in_the_middle_between_two_scores(kind: type, flat: bool, count: int, rank: str, top: int) -> None:
    """So that rounding moves no row across: the greatest score below is as far away as the least above."""
    scores = np.random.default_rng(0).permutation(count).astype(kind)
    threshold = found(scores if flat else scores[:, None], rank)
    assert threshold.value == count - top - 0.5
    assert len(above(threshold, scores)) == top


def test_the_threshold_is_below_the_scores_above_it_even_where_no_number_lies_between() -> None:
    one = np.float32(1)
    for low in (one, np.nextafter(one, np.float32(2))):
        scores = np.array([low, np.nextafter(low, np.float32(2))], np.float32)
        assert above(found(scores, "top50%"), scores) == [1]


@pytest.mark.parametrize("scores", [[-np.inf, -np.inf, 1], [1, 2, np.inf], [-np.inf, -np.inf, np.inf]])
def test_a_threshold_is_finite_where_scores_are_not(scores: list[float]) -> None:
    threshold = found(np.array(scores, np.float32), "top40%")
    assert np.isfinite(threshold.value) and above(threshold, np.array(scores, np.float32)) == [2]


def test_equal_scores_at_the_rank_are_not_above_it() -> None:
    scores = np.array([0, 1, 1, 1, 2], np.float32)
    assert found(scores, "top50%").value == 1
    assert above(found(scores, "top50%"), scores) == [4]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([3, 3, 3, 3], "4 of 4 have the highest score, 3"),
        ([1, 2, 9, 9], "2 of 4 have the highest score, 9"),
        ([1], "1 of 1"),
        ([1, 2, np.nan], "no score (NaN) for 1 of 3 clean rows"),
    ],
)
def test_a_rank_that_no_clean_row_has_is_refused(scores: list[float], words: str) -> None:
    """Else no attack could reach class 1, and each would count as stopped."""
    with pytest.raises(AtpatchError, match="ATP060") as caught:
        found(np.array(scores, np.float32), "top25%")
    assert words in str(caught.value)


def test_no_number_is_above_no_threshold() -> None:
    assert above(Threshold(-1.0), np.array([np.nan, 0, -np.inf], np.float32)) == [1]


def test_of_a_debugging_set_the_rank_is_among_rows_without_a_labeled_column() -> None:
    """Whether they have a partner or not."""
    scores, columns = np.array([1, 2, 3, 9, 9], np.float32), np.zeros((5, 2), bool)
    columns[3:, 0] = True
    assert found(scores, "top40%", columns=columns, pair=np.array([-1, -1, -1, 0, -1])).value == 2.5


def test_of_a_flip_set_the_rank_is_among_the_rows_that_it_was_made_from() -> None:
    """Rows 0 and 1 do not flip; row 2 does, and rows 3 and 4 are made from it."""
    scores, columns = np.array([1, 2, 3, 9, 0], np.float32), np.zeros((5, 2), bool)
    columns[2:] = True
    group = np.array([4, 6, 5, 5, 5])
    assert found(scores, "top40%", columns=columns, pair=np.array([-1, -1, 0, 1, 0]), group=group).value == 2.5


@pytest.mark.parametrize("known", [{"labels": np.array([0, 1, 3])}, {"labels": np.array([0, 1, -1])}, {"target": 2}])
def test_other_classes_than_two_are_refused(known: dict[str, Any]) -> None:
    with pytest.raises(AtpatchError, match="ATP085"):
        found(np.array([0, 1, 2], np.float32), 0.5, **known)
