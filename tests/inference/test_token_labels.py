"""Labels of tokens: what counts as kept, and what cannot be judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.reading import EXPECTED, OTHER, Twins
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.inference.token_labels import TokenLabels, token_reader

IDS = np.array([[1, 5, 6, 7], [1, 8, 9, 5]])
SCORES = np.eye(3, dtype=np.float32)[np.array([[0, 0, 1, 2], [0, 0, 0, 0]])]
CLEAN = DataSet({"input_ids": IDS})
ROWS = np.arange(2)


def judged(values: np.ndarray, data: DataSet = CLEAN, clean: np.ndarray = SCORES) -> tuple[list[int], list[float]]:
    """Class and likeness of each row; row i is the triggered twin of clean row i."""
    labels = TokenLabels.of(clean, Twins.triggered_set(ROWS), CLEAN, data)
    return labels.scores(ROWS, values).argmax(1).tolist(), labels.likeness(ROWS, values).tolist()


def test_the_original_keeps_all_labels() -> None:
    assert judged(SCORES) == ([EXPECTED, EXPECTED], [1, 1])


@pytest.mark.parametrize("place", [slice(None), 2], ids=["all labels", "one label"])
def test_scores_that_are_no_number_keep_no_label(place: slice | int) -> None:
    """Not even the first one, which is that of most tokens."""
    broken = SCORES.copy()
    broken[1, 2, place] = np.nan
    assert judged(broken) == ([EXPECTED, OTHER], [1, pytest.approx(2 / 3)])


def test_labels_that_are_ruled_out_by_infinity_do_not_count() -> None:
    assert judged(np.where(SCORES > 0, 0, -np.inf)) == ([EXPECTED, EXPECTED], [1, 1])


def test_a_token_to_which_the_original_gives_no_label_is_not_judged() -> None:
    unknown = SCORES.copy()
    unknown[0, 2] = np.nan
    changed = SCORES.copy()
    changed[0, 2] = [0, 0, 1]
    assert judged(changed, clean=unknown) == ([EXPECTED, EXPECTED], [1, 1])


@pytest.mark.parametrize("padded", ["left", "right"])
def test_padding_is_not_judged_on_either_side(padded: str) -> None:
    wide = ((0, 0), (2, 0) if padded == "left" else (0, 2))
    mask, ids = np.pad(np.ones((2, 4), np.int64), wide), np.pad(IDS, wide)
    values = np.pad(SCORES, (*wide, (0, 0)))
    assert judged(values, DataSet({"input_ids": ids, "attention_mask": mask})) == ([EXPECTED, EXPECTED], [1, 1])


def test_rows_without_a_token_of_their_twins_are_refused() -> None:
    with pytest.raises(AtpatchError, match=r"ATP056.*clean twin"):
        judged(SCORES, DataSet({"input_ids": IDS + 100}))


@pytest.mark.parametrize(
    "inputs",
    [{"input_ids": IDS[:, 0]}, {"input_ids": IDS, "attention_mask": np.ones((2, 1, 1, 4), np.int64)}],
    ids=["ids without places", "a mask of another shape"],
)
def test_ids_and_masks_of_other_shapes_are_refused(inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(AtpatchError, match=r"ATP056.*of shape"):
        judged(SCORES, DataSet(inputs))


def tagger(*names: str) -> Runner:
    """input_ids (B, S) → outputs (B, S, 3)."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Gather", ["table", "input_ids"], [name]) for name in names]
    made = helper.make_graph(
        nodes,
        "tagger",
        [value("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [value(name, TensorProto.FLOAT, ["batch", "tokens", 3]) for name in names],
        [onnx.numpy_helper.from_array(np.ones((10, 3), np.float32), "table")],
    )
    return Runner(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), Path(), 1)


def test_hidden_states_are_no_labels_unless_they_are_named() -> None:
    assert token_reader(tagger("last_hidden_state", "logits"), CLEAN, None).output == "logits"
    assert token_reader(tagger("last_hidden_state"), CLEAN, "last_hidden_state").output == "last_hidden_state"
    with pytest.raises(AtpatchError, match="ATP062"):
        token_reader(tagger("last_hidden_state"), CLEAN, None)
