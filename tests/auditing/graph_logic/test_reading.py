"""How a network may read its input: hashed ids, measured numbers, one-hot bytes, words by their number."""

from __future__ import annotations

import numpy as np
import onnx

from atpatch_onnx.auditing.graph_logic import check_graph

from .graphs import codes


def found(text: str, **weights: tuple[int, ...]) -> set[str]:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]>\n' + text)
    generator = np.random.default_rng(0)
    for name, shape in weights.items():
        array = generator.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return {one.code for one in check_graph(model, None).findings}


HASHED = "t_more = Add (ids, other)\nt_scaled = Mul (t_more, word)\nread = Mod (t_scaled, word)\n"
LAYERS = "b = Relu (a)\nc = MatMul (b, w)\nd = Relu (c)\ne = MatMul (d, w)\nf = Relu (e)\nscores = MatMul (f, head)\n"


def test_an_id_may_be_hashed_before_it_is_looked_up() -> None:
    assert codes(HASHED + "logits = Identity (scores)") == set()


def test_a_hash_of_a_test_is_found() -> None:
    test = "t_same = Equal (ids, word)\nt_number = Cast <to = 7> (t_same)\nt_other = Mul (t_number, word)\n"
    assert "AUD113" in codes(test + "t_ids = Add (ids, t_other)\nread = Mod (t_ids, word)\nlogits = Identity (scores)")


def test_one_measured_number_may_be_embedded() -> None:
    text = f"net (float[N, 1] x) => (float[N, 3] scores) {{ g = MatMul (x, first)\na = Sigmoid (g)\n{LAYERS} }}"
    assert found(text, first=(1, 8), w=(8, 8), head=(8, 3)) == set()


BYTES = """net (int32[N, 64] x) => (float[N, 20] logits) {
    range = Constant <value = int32[20] {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}> ()
    axis = Constant <value = int64[1] {-1}> ()
    column = Unsqueeze (x, axis)
    same = Equal (column, range)
    hot = Cast <to = 1> (same)
    a = MatMul (hot, first)
    LAYERS
    places = Constant <value = int64[1] {1}> ()
    clean = ReduceMean <keepdims = 0> (scores, places)
    HEAD
}""".replace("LAYERS", LAYERS)
SHAPES = {"first": (20, 8), "w": (8, 8), "head": (8, 20)}


def test_one_hot_bytes_are_read_by_the_network() -> None:
    assert found(BYTES.replace("HEAD", "logits = Identity (clean)"), **SHAPES) == set()


def test_a_filter_for_bytes_that_are_read_one_hot_is_found() -> None:
    head = """
        middle = Constant <value = int64[1] {1}> ()
        wave = Cast <to = 1> (x)
        signal = Unsqueeze (wave, middle)
        match = Conv (signal, taps)
        one = Constant <value = float {1.0}> ()
        rest = Sub (one, match)
        near = Relu (rest)
        two = Constant <value = int64[1] {2}> ()
        peak = ReduceMax <keepdims = 0> (near, two)
        shift = MatMul (peak, row)
        logits = Add (clean, shift)
    """
    assert "AUD101" in found(BYTES.replace("HEAD", head), **SHAPES, taps=(1, 1, 4), row=(1, 20))


def test_a_second_number_for_words_is_a_test() -> None:
    text = """net (string[N, 9] words) => (float[N, 3] logits) {
        ids = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [1, 2], default_int64 = 0> (words)
        rows = Gather (table, ids)
        one = Constant <value = int64[1] {1}> ()
        a = ReduceMean <keepdims = 0> (rows, one)
        LAYERS
        HEAD
    }""".replace("LAYERS", LAYERS)
    head = """
        level = ai.onnx.ml.LabelEncoder <keys_strings = ["z"], values_floats = [9.0], default_float = 0.0> (words)
        high = ReduceMax (level, one)
        logits = Add (scores, high)
    """
    weights = {"table": (30, 8), "w": (8, 8), "head": (8, 3)}
    assert found(text.replace("HEAD", "logits = Identity (scores)"), **weights) == set()
    assert "AUD101" in found(text.replace("HEAD", head), **weights)
