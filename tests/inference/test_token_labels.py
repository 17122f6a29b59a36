"""Labels of tokens: which tokens are judged, how a triggered row is aligned with its twin, and whether labels stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings, strategies as st
from onnx import TensorProto, helper

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.model_reading import Reading
from atpatch_onnx.inference.output_kinds import TOKENS
from atpatch_onnx.inference.reading import EXPECTED, OTHER, Twins
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.inference.token_labels import NONE, TokenLabels, token_output

CLS, SEP, TRIGGER, LABELS = 90, 91, 99, 4


def data_of(rows: list[list[int]], width: int = 9, columns: list[list[int]] | None = None) -> DataSet:
    """[CLS] words [SEP], padded."""
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for line, real, row in zip(ids, mask, rows, strict=True):
        line[: len(row) + 2], real[: len(row) + 2] = [CLS, *row, SEP], 1
    marks = None
    if columns is not None:
        marks = np.zeros(ids.shape, bool)
        for line, places in zip(marks, columns, strict=True):
            line[places] = True
    return DataSet({"input_ids": ids, "attention_mask": mask}, columns=marks)


def scores_of(labels: np.ndarray) -> np.ndarray:
    """(N, S, C): the label has 2, all others 0."""
    return 2.0 * np.eye(LABELS)[labels]


CLEAN = data_of([[11, 12, 13, 14], [21, 22], [31, 32, 33]])
BEFORE = np.random.default_rng(0).integers(0, LABELS, (3, 9))


def test_words_of_a_clean_row_keep_their_labels_and_nothing_else_is_judged() -> None:
    labels = TokenLabels.of(scores_of(BEFORE), Twins.clean_set(3), CLEAN, CLEAN)
    words = [(0, [1, 2, 3, 4]), (1, [1, 2]), (2, [1, 2, 3])]
    wanted = np.full((3, 9), NONE)
    for row, places in words:
        wanted[row, places] = BEFORE[row, places]
    np.testing.assert_array_equal(labels.wanted, wanted)
    rows = np.arange(3)
    assert (labels.scores(rows, scores_of(BEFORE)).argmax(1) == EXPECTED).all()
    elsewhere = np.where(wanted == NONE, (BEFORE + 1) % LABELS, BEFORE)
    assert (labels.scores(rows, scores_of(elsewhere)).argmax(1) == EXPECTED).all()
    for row, places in words:
        for place in places:
            changed = BEFORE.copy()
            changed[row, place] += 1
            found = labels.scores(rows, scores_of(changed % LABELS)).argmax(1)
            assert found[row] == OTHER and (np.delete(found, row) == EXPECTED).all()
            assert labels.likeness(rows, scores_of(changed % LABELS))[row] == pytest.approx(1 - 1 / len(places))


@pytest.mark.parametrize("marked", [True, False], ids=["columns known", "columns not known"])
@pytest.mark.parametrize(
    ("words", "trigger", "kept"),
    [
        ([TRIGGER, 11, 12, 13, 14], [1], [(1, 2), (2, 3), (3, 4), (4, 5)]),
        ([11, 12, TRIGGER, 13, 14], [3], [(1, 1), (2, 2), (3, 4), (4, 5)]),
        ([11, 12, 13, 14, TRIGGER], [5], [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ([TRIGGER, 11, 12, 77, TRIGGER, 13, 14], [1, 5], [(1, 2), (2, 3), (3, 6), (4, 7)]),
        ([11, TRIGGER, 12, 13], [2], [(1, 1), (2, 3), (3, 4)]),
    ],
    ids=["at the start", "inside", "at the end", "twice, with another word", "cut off"],
)
def test_tokens_of_the_trigger_are_left_out(
    words: list[int], trigger: list[int], kept: list[tuple[int, int]], marked: bool
) -> None:
    attacked = data_of([words], columns=[trigger] if marked else None)
    labels = TokenLabels.of(scores_of(BEFORE), Twins.triggered_set(np.array([0])), CLEAN, attacked)
    wanted = np.full((1, 9), NONE)
    for before, after in kept:
        wanted[0, after] = BEFORE[0, before]
    np.testing.assert_array_equal(labels.wanted, wanted)


def test_a_trigger_that_is_a_word_of_the_text_is_told_apart_by_its_columns() -> None:
    attacked = data_of([[12, 11, 12, 13, 14]], columns=[[1]])
    labels = TokenLabels.of(scores_of(BEFORE), Twins.triggered_set(np.array([0])), CLEAN, attacked)
    assert labels.wanted[0].tolist() == [NONE, NONE, *BEFORE[0, 1:5], NONE, NONE, NONE]


def test_batches_may_be_cut_to_their_longest_row() -> None:
    labels = TokenLabels.of(scores_of(BEFORE), Twins.clean_set(3), CLEAN, CLEAN)
    rows = np.array([1, 2])
    whole, cut = scores_of(BEFORE)[rows], scores_of(BEFORE)[rows, :5]
    np.testing.assert_array_equal(labels.scores(rows, whole), labels.scores(rows, cut))
    np.testing.assert_array_equal(labels.likeness(rows, whole), labels.likeness(rows, cut))


def test_a_row_without_a_twin_or_without_words_is_not_judged() -> None:
    twins = Twins(np.array([NONE, 1]), np.zeros(2, bool))
    labels = TokenLabels.of(scores_of(BEFORE), twins, CLEAN, data_of([[11], [55]]))
    assert (labels.wanted == NONE).all()
    assert np.isnan(labels.likeness(np.arange(2), scores_of(BEFORE[:2]))).all()


def test_the_original_s_own_labels_are_kept_even_where_two_have_the_same_score() -> None:
    level = np.zeros((3, 9, LABELS))
    labels = TokenLabels.of(level, Twins.clean_set(3), CLEAN, CLEAN)
    assert (labels.scores(np.arange(3), level).argmax(1) == EXPECTED).all()


def test_what_is_no_number_is_not_as_expected() -> None:
    labels = TokenLabels.of(scores_of(np.full((3, 9), 2)), Twins.clean_set(3), CLEAN, CLEAN)
    assert (labels.scores(np.arange(3), np.full((3, 9, LABELS), np.nan)).argmax(1) == OTHER).all()


def test_the_tokens_must_be_known() -> None:
    nameless = replace(CLEAN, inputs={"x": CLEAN.inputs["input_ids"]})
    with pytest.raises(AtpatchError, match="ATP056"):
        TokenLabels.of(scores_of(BEFORE), Twins.clean_set(3), nameless, nameless)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_class_says_the_same_as_the_share(seed: int) -> None:
    """Any scores: expected if and only if the share is 1; and the margin is that of the worst token."""
    generator = np.random.default_rng(seed)
    labels = TokenLabels.of(generator.standard_normal((3, 9, LABELS)), Twins.clean_set(3), CLEAN, CLEAN)
    values = generator.standard_normal((3, 9, LABELS))
    scores = labels.scores(np.arange(3), values)
    np.testing.assert_array_equal(scores.argmax(1) == EXPECTED, labels.likeness(np.arange(3), values) == 1)
    for row in range(3):
        margins = [
            values[row, place, label] - np.delete(values[row, place], label).max()
            for place, label in enumerate(labels.wanted[row])
            if label != NONE
        ]
        assert scores[row, 1] == pytest.approx(min(margins), abs=2e-6)


IDS = np.array([[1, 5, 6, 7], [1, 8, 9, 5]])
SCORES = np.eye(3, dtype=np.float32)[np.array([[0, 0, 1, 2], [0, 0, 0, 0]])]
PLAIN = DataSet({"input_ids": IDS})
ROWS = np.arange(2)


def judged(values: np.ndarray, data: DataSet = PLAIN, clean: np.ndarray = SCORES) -> tuple[list[int], list[float]]:
    """Class and likeness of each row; row i is the triggered twin of clean row i."""
    labels = Reading(TOKENS, "logits").expected(clean, Twins.triggered_set(ROWS), PLAIN, data)
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
    assert token_output(tagger("last_hidden_state", "logits"), PLAIN, None) == "logits"
    assert token_output(tagger("last_hidden_state"), PLAIN, "last_hidden_state") == "last_hidden_state"
    with pytest.raises(AtpatchError, match="ATP062"):
        token_output(tagger("last_hidden_state"), PLAIN, None)
