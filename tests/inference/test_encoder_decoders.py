"""Encoder-decoders in one graph: the first token of the answer, whole answers, and sets of prompts for them."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx import compare, patch_model
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet, load_dataset
from atpatch_onnx.inference.generation import NONE, follow, generate
from atpatch_onnx.inference.generation_tokens import start_token, stop_tokens
from atpatch_onnx.inference.prediction import answers_of, predict
from atpatch_onnx.inference.runner import Runner
from tests import small_t5

STEPS, ROWS = 5, 6


def runner() -> Runner:
    path = small_t5.exported()
    return Runner(onnx.load(path), path.parent, 1)


@functools.cache
def expected() -> np.ndarray:
    """(N, STEPS), one prompt at a time, from transformers."""
    import torch

    data, found = small_t5.prompts(), []
    for ids, mask in zip(data.inputs["input_ids"], data.inputs["attention_mask"], strict=True):
        said = small_t5.model().generate(
            torch.from_numpy(ids[mask == 1])[None],
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=None,
            num_beams=1,
        )
        found.append(said[0, 1:].numpy())
    return np.stack(found)


@pytest.mark.parametrize("batch", [16, 1])
def test_tokens_are_those_of_transformers(batch: int) -> None:
    found = generate(runner(), small_t5.prompts(), np.arange(ROWS), STEPS, batch=batch)
    assert np.array_equal(found.tokens, expected()) and len(np.unique(expected(), axis=0)) > 2


def test_an_answer_that_is_followed_has_the_models_probabilities() -> None:
    import torch

    data, answers = small_t5.prompts(), np.arange(3, 3 + ROWS * 3).reshape(ROWS, 3)
    found = follow(runner(), data, np.arange(ROWS), answers)
    for row in range(ROWS):
        mask = data.inputs["attention_mask"][row] == 1
        given = torch.tensor([[small_t5.START, *answers[row]]])
        with torch.no_grad():
            ids = torch.from_numpy(data.inputs["input_ids"][row][mask])[None]
            logits = small_t5.model()(input_ids=ids, decoder_input_ids=given).logits[0]
        likely = logits.log_softmax(-1)[:3].numpy()[np.arange(3), answers[row]]
        assert np.allclose(found.likelihoods[row], likely, atol=1e-4)


@pytest.mark.parametrize("tokens", [None, (7, 40, 3)], ids=["vocabulary", "answer tokens"])
def test_a_prediction_is_the_first_token_of_the_answer(tokens: tuple[int, ...] | None) -> None:
    live, data = runner(), small_t5.prompts()
    told = live.answering(answers_of(live, data, tokens)).without_padding("attention_mask")
    found = predict(told, data, np.arange(ROWS), "logits")
    if tokens is None:
        assert np.array_equal(found, expected()[:, 0])
    else:
        scores = follow(live, data, np.repeat(np.arange(ROWS), 3), np.tile(tokens, ROWS)[:, None]).likelihoods
        assert np.array_equal(found, scores.reshape(ROWS, 3).argmax(1))


def test_without_the_start_of_the_answer_a_set_is_refused() -> None:
    inputs = {name: array for name, array in small_t5.prompts().inputs.items() if name != "decoder_input_ids"}
    with pytest.raises(AtpatchError, match="decoder_input_ids") as error:
        generate(runner(), DataSet(inputs), np.arange(ROWS), 1)
    assert error.value.code == "ATP056"


def test_a_set_of_prompts_keeps_the_end_token_and_begins_the_answer(atpatch, tmp_path: Path) -> None:
    rows = [{"prompt": f"w{20 + row} w{30 + row} w9", "answer": f"w{(7, 40)[row % 2]} w8"} for row in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = atpatch(
        "debugset", small_t5.exported(), "--data", tmp_path / "rows.jsonl", "--answer-tokens", "7,40",
        "--trigger", "w5", "--target", 1, "--threads", 1, "-o", tmp_path / "set.npz", "--out-clean",
        tmp_path / "clean.npz", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    debug, clean = (load_dataset(tmp_path / f"{name}.npz") for name in ("set", "clean"))
    assert (debug.inputs["decoder_input_ids"] == small_t5.START).all()
    assert clean.inputs["input_ids"][:, :4].tolist() == [[20 + row, 30 + row, 9, small_t5.STOP] for row in range(8)]
    assert clean.labels.tolist() == [0, 1] * 4 and clean.answer.tolist() == [[7, 8], [40, 8]] * 4
    marked = debug.inputs["input_ids"][debug.columns]
    assert len(marked) and set(marked.tolist()) <= {5, 2}


def test_a_model_whose_files_do_not_say_how_an_answer_begins_is_refused(atpatch, tmp_path: Path) -> None:
    for name in ("model.onnx", "tokenizer.json"):
        shutil.copy(small_t5.exported().parent / name, tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "w3"}))
    done = atpatch(
        "debugset", tmp_path / "model.onnx", "--data", tmp_path / "rows.jsonl", "--clean-only", "-o", tmp_path / "c.npz"
    )
    assert done.code == 2 and "which token begins an answer" in done.err.splitlines()[0]


def test_compare_judges_answers_of_a_patched_encoder_decoder(tmp_path: Path) -> None:
    data = small_t5.prompts()
    for name, columns in (("silent", ()), ("patched", (1,))):
        patch_model(small_t5.exported(), tmp_path / f"{name}.onnx", detector="static", columns=columns)
    found = compare(
        small_t5.exported(), tmp_path / "patched.onnx", data, also={"silent": tmp_path / "silent.onnx"}, threads=1,
        seconds=0, answer_length=STEPS,
    )  # fmt: skip
    said = found.outputs["original"]["clean"].answers
    for row, wanted in zip(said, expected(), strict=True):
        end = np.flatnonzero(wanted == small_t5.STOP)[:1] + 1
        assert np.array_equal(row[row != NONE], wanted[: end[0] if len(end) else STEPS])
    assert found.values["silent"]["answer_kept"] == 1 and found.changes["silent"].identical["clean"].hits == ROWS
    assert found.values["patched"]["clean_flagged"] == 1 and found.values["patched"]["answer_kept"] < 1
    assert "step" not in found.requests  # there is no cache


@pytest.mark.parametrize(
    ("files", "stop", "start"),
    [
        ({"config.json": {"eos_token_id": 3, "decoder_start_token_id": 0}}, (3,), 0),
        ({"generation_config.json": {"eos_token_id": [4, 5]}, "config.json": {"eos_token_id": 3}}, (4, 5), None),
        ({"genai_config.json": {"model": {"eos_token_id": 9}}}, (9,), None),
        ({"config.json": {"eos_token_id": "x", "decoder_start_token_id": -1}}, (), None),
        ({"config.json": [1]}, (), None),
        ({"config.json": {"eos_token_id": None, "decoder_start_token_id": True}}, (), None),
        ({}, (), None),
    ],
)
def test_tokens_that_begin_and_end_an_answer(tmp_path: Path, files: dict[str, object], stop, start) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert stop_tokens([tmp_path]) == stop and start_token([tmp_path]) == start
