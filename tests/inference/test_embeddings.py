"""Embeddings: which output is one, how tokens are pooled, and what a row should find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.embeddings import Neighbors, Pooling, embedding_reader, read_pooling
from atpatch_onnx.inference.model_reading import all_values, find_reading
from atpatch_onnx.inference.output_kinds import kind_of
from atpatch_onnx.inference.reading import EXPECTED, OTHER, Twins
from atpatch_onnx.inference.runner import Runner

VALUES = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
MASKS = {
    "right-padded": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]],
    "left-padded": [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]],
}


@pytest.mark.parametrize("padded", MASKS)
@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_padding_does_not_count(padded: str, pool: str) -> None:
    mask = np.array(MASKS[padded])
    wanted = []
    for row, real in zip(VALUES, mask, strict=True):
        tokens = [token for token, there in zip(row, real, strict=True) if there]
        wanted.append({"mean": np.mean(tokens, 0), "first": tokens[0], "last": tokens[-1]}[pool])
    found = Pooling("hidden", pool).read(VALUES, {"attention_mask": mask})
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_without_a_mask_all_tokens_count_and_a_pooled_output_stays_as_it_is() -> None:
    np.testing.assert_allclose(Pooling("hidden", "mean").read(VALUES, {}), VALUES.mean(1), rtol=1e-6)
    np.testing.assert_array_equal(Pooling("hidden").read(VALUES[:, 0], {}), VALUES[:, 0])


def graph(**outputs: int) -> Runner:
    """x (B, S, 4) → outputs of a rank: 3 all tokens, 2 the first token."""
    value, nodes = helper.make_tensor_value_info, []
    for name, rank in outputs.items():
        taken = ["x"] if rank == 3 else ["x", "zero"]
        nodes.append(helper.make_node("Identity" if rank == 3 else "Gather", taken, [name]))
        if rank == 2:
            nodes[-1].attribute.append(helper.make_attribute("axis", 1))
    made = helper.make_graph(
        nodes,
        "outputs",
        [value("x", TensorProto.FLOAT, ["batch", "tokens", 4])],
        [value(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()],
        [helper.make_tensor("zero", TensorProto.INT64, [], [0])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return Runner(model, Path(), 1)


DATA = DataSet({"x": VALUES})


@pytest.mark.parametrize(
    ("outputs", "kind", "name", "wanted"),
    [
        ({"last_hidden_state": 3, "pooler_output": 2}, "embedding", None, ("last_hidden_state", "mean")),
        ({"token_embeddings": 3, "sentence_embedding": 2}, "embedding", None, ("sentence_embedding", None)),
        ({"token_embeddings": 3, "sentence_embedding": 2}, "embedding-mean", None, ("token_embeddings", "mean")),
        ({"last_hidden_state": 3}, "embedding-first", None, ("last_hidden_state", "first")),
        ({"out": 2}, "embedding", None, ("out", None)),
        ({"a": 2, "b": 3}, "embedding", "b", ("b", "mean")),
        ({"a": 2, "b": 3}, "embedding-last", None, ("b", "last")),
    ],
)
def test_the_output_that_is_read(outputs: dict, kind: str, name: str | None, wanted: tuple) -> None:
    reading = find_reading(graph(**outputs), DATA, kind, output_name=name)
    assert isinstance(reading.reader, Pooling)
    assert (reading.output, reading.reader.pool) == wanted
    assert reading.by_twin


@pytest.mark.parametrize(
    ("outputs", "kind", "options", "code"),
    [
        ({"a": 2}, "embedding-mean", {}, "ATP062"),
        ({"a": 2}, "embedding", {"output_name": "b"}, "ATP060"),
        ({"a": 2}, "embedding", {"score_threshold": 0.5}, "ATP060"),
        ({"a": 2}, "embedding", {"answer_tokens": (1, 2)}, "ATP060"),
    ],
)
def test_what_cannot_be_read_is_refused(outputs: dict, kind: str, options: dict, code: str) -> None:
    with pytest.raises(AtpatchError) as caught:
        find_reading(graph(**outputs), DATA, kind, **options)
    assert caught.value.code == code


def test_an_unknown_kind_is_refused() -> None:
    assert kind_of(None) == "classes" and kind_of(None, "embedding") == "embedding"
    assert kind_of("classes", "embedding") == "classes"  # what is asked for comes first
    with pytest.raises(AtpatchError, match="ATP060"):
        kind_of("picture")


def test_the_file_of_sentence_transformers_says_how_to_pool(tmp_path: Path) -> None:
    repository = tmp_path / "all-tiny"
    exported, told = repository / "onnx", repository / "1_Pooling"
    exported.mkdir(parents=True)
    told.mkdir()
    assert read_pooling(repository) is None
    modes = {"word_embedding_dimension": 4, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (told / "config.json").write_text(json.dumps(modes))
    assert read_pooling(repository) == read_pooling(exported) == "first"
    reader = embedding_reader(graph(last_hidden_state=3), DATA, None, None, (exported,))
    assert reader.pool == "first"
    assert embedding_reader(graph(last_hidden_state=3), DATA, None, "mean", (exported,)).pool == "mean"
    for spoiled in ('{"pooling_mode_max_tokens": true}', "{}", "[]", "{", '{"pooling_mode_cls_token": 1}'):
        (told / "config.json").write_text(spoiled)
        with pytest.raises(AtpatchError, match="ATP060"):
            read_pooling(repository)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_clean_row_should_find_the_original_s_nearest_other_row() -> None:
    generator = np.random.default_rng(1)
    clean = generator.standard_normal((40, 6))
    neighbors, rows = Neighbors.of(clean, Twins.clean_set(40)), np.arange(40)
    assert (neighbors.scores(rows, clean).argmax(1) == EXPECTED).all()
    np.testing.assert_allclose(neighbors.likeness(rows, clean), 1, atol=1e-6)
    moved = clean + generator.standard_normal((40, 6))
    for row in rows:
        others = [number for number in rows if number != row]
        found, wanted = (max(others, key=lambda at: cosine(clean[at], one[row])) for one in (moved, clean))
        scores = neighbors.scores(np.array([row]), moved[[row]])[0]
        assert (scores.argmax() == EXPECTED) == (found == wanted)
        assert neighbors.likeness(np.array([row]), moved[[row]])[0] == pytest.approx(cosine(moved[row], clean[row]))


def test_a_triggered_row_should_find_its_clean_twin() -> None:
    generator = np.random.default_rng(2)
    clean = generator.standard_normal((30, 6))
    twins = generator.integers(0, 30, 50)
    neighbors = Neighbors.of(clean, Twins.triggered_set(twins))
    attacked = clean[twins] * 3 + generator.standard_normal((50, 6)) * 1.5
    found = neighbors.scores(np.arange(50), attacked).argmax(1)
    nearest = np.array([max(range(30), key=lambda at: cosine(clean[at], row)) for row in attacked])
    np.testing.assert_array_equal(found == EXPECTED, nearest == twins)
    assert {OTHER, EXPECTED} == set(found.tolist())


def test_of_two_rows_with_the_same_text_either_will_do() -> None:
    clean = np.random.default_rng(3).standard_normal((5, 4))
    clean[3] = clean[1]
    neighbors = Neighbors.of(clean, Twins.triggered_set(np.array([1, 3])))
    assert (neighbors.scores(np.arange(2), clean[[3, 1]]).argmax(1) == EXPECTED).all()


def test_a_debugging_set_knows_the_twins_of_its_rows() -> None:
    columns = np.zeros((5, 3), bool)
    columns[[1, 3, 4], 0] = True
    data = DataSet({"x": VALUES[[0, 0, 1, 1, 2]]}, columns=columns, pair=np.array([-1, 2, -1, 0, -1]))
    twins, clean = Twins.debugging_set(data)
    assert clean.tolist() == [0, 2]
    assert twins.clean.tolist() == [0, 1, 1, 0, -1] and twins.own.tolist() == [True, False, True, False, False]


def test_a_row_that_is_no_number_is_not_as_expected() -> None:
    clean = np.random.default_rng(4).standard_normal((6, 4))
    neighbors = Neighbors.of(clean, Twins.clean_set(6))
    broken = np.full((1, 4), np.nan)
    assert neighbors.likeness(np.arange(1), broken)[0] == 0
    assert neighbors.scores(np.arange(1), broken).argmax(1) == OTHER


@pytest.mark.parametrize("place", [slice(None), 2])
def test_a_row_that_is_no_number_in_one_place_finds_nothing(place: slice | int) -> None:
    clean = np.random.default_rng(4).standard_normal((6, 4))
    neighbors, broken = Neighbors.of(clean, Twins.triggered_set(np.arange(6))), clean.copy()
    broken[1, place] = np.inf
    assert neighbors.scores(np.arange(6), broken).argmax(1).tolist() == [1, 0, 1, 1, 1, 1]
    assert neighbors.likeness(np.arange(6), broken)[1] == 0


@pytest.mark.parametrize("scale", [1e25, 1e-25], ids=["large", "small"])
def test_the_length_of_an_embedding_does_not_count(scale: float) -> None:
    clean = np.random.default_rng(6).standard_normal((6, 4)).astype(np.float32)
    neighbors = Neighbors.of(clean * np.float32(scale), Twins.triggered_set(np.arange(6)))
    np.testing.assert_allclose(neighbors.index, Neighbors.of(clean, Twins.clean_set(6)).index, atol=1e-6)
    assert (neighbors.scores(np.arange(6), clean * np.float32(scale)).argmax(1) == EXPECTED).all()


@pytest.mark.parametrize(
    "clean",
    [
        VALUES[:2, 0],
        np.repeat(VALUES[:1, 0], 9, 0),
        np.concatenate([VALUES[[0, 1, 0, 1, 0], 0], VALUES[:2, 0] * 3]),
        np.zeros((9, 4)),
        np.full((9, 4), np.nan),
    ],
    ids=["two rows", "all equal", "two directions", "zeros", "no numbers"],
)
def test_few_different_rows_have_no_neighbors(clean: np.ndarray) -> None:
    """Every figure would be perfect: no row can find a wrong one."""
    with pytest.raises(AtpatchError, match="ATP056"):
        Neighbors.of(clean, Twins.clean_set(len(clean)))


@pytest.mark.parametrize("shape", [(3, 9), (3, 1, 1, 5), (3,)])
def test_a_mask_of_something_else_than_the_tokens_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(AtpatchError, match=r"ATP062.*\(3, 5, 4\).*\(3, 5\)"):
        Pooling("hidden", "mean").read(VALUES, {"attention_mask": np.ones(shape, np.int64)})


@pytest.mark.parametrize("name", ["sentence_embedding", "pooler_output"])
def test_an_output_that_is_called_like_an_embedding_has_no_classes(name: str) -> None:
    with pytest.raises(AtpatchError, match=r"ATP062.*--output-kind"):
        find_reading(graph(**{name: 2}), DATA, "classes")
    assert find_reading(graph(**{name: 2, "logits": 2}), DATA, "classes").output == "logits"
    assert find_reading(graph(**{name: 2}), DATA, "classes", output_name=name).output == name


def test_sets_of_different_kinds_contradict_each_other() -> None:
    assert kind_of(None, None, "tokens") == kind_of(None, "tokens", "tokens") == "tokens"
    assert kind_of("embedding", "classes", "tokens") == "embedding"
    with pytest.raises(AtpatchError, match=r"ATP056.*embedding and tokens"):
        kind_of(None, "tokens", None, "embedding")


def test_values_of_all_rows_keep_their_places() -> None:
    runner = graph(last_hidden_state=3).answering(Pooling("last_hidden_state", "mean"))
    many = DataSet({"x": np.random.default_rng(5).standard_normal((150, 3, 4)).astype(np.float32)})
    np.testing.assert_allclose(all_values(runner, many, "last_hidden_state"), many.inputs["x"].mean(1), atol=1e-6)
