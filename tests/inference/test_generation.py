"""Greedy generation: the tokens of transformers, with caches and without, in padded batches."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest

from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.generation import NONE, follow, generate
from atpatch_onnx.inference.prediction import answers_of, predict, prediction_output
from atpatch_onnx.inference.runner import Runner
from tests import small_llama
from tests.rewriters.decoders import merged_decoder

STEPS = 8


def runner(cache: bool) -> Runner:
    path = small_llama.exported(cache)
    return Runner(onnx.load(path), path.parent, 1)


@functools.cache
def expected() -> np.ndarray:
    """(N, STEPS), one prompt at a time, from transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(small_llama.folder()).eval()
    data, found = small_llama.prompts(), []
    for ids, mask in zip(data.inputs["input_ids"], data.inputs["attention_mask"], strict=True):
        prompt = torch.from_numpy(ids[mask == 1])[None]
        told = model.generate(prompt, max_new_tokens=STEPS, do_sample=False, eos_token_id=None, pad_token_id=0)
        found.append(told[0, prompt.shape[1] :].numpy())
    return np.stack(found)


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "whole text"])
@pytest.mark.parametrize("batch", [16, 4, 1])
def test_tokens_are_those_of_transformers(cache: bool, batch: int) -> None:
    data = small_llama.prompts()
    found = generate(runner(cache), data, np.arange(len(data)), STEPS, batch=batch)
    assert np.array_equal(found.tokens, expected())


def test_only_the_rows_asked_for_are_run_in_their_order() -> None:
    found = generate(runner(True), small_llama.prompts(), np.array([4, 0]), STEPS)
    assert np.array_equal(found.tokens, expected()[[4, 0]])


def test_an_answer_ends_with_its_stop_token() -> None:
    stop = int(expected()[0, 2])
    found = generate(runner(True), small_llama.prompts(), np.arange(6), STEPS, [stop])
    for told, whole in zip(found.tokens, expected(), strict=True):
        end = np.flatnonzero(whole == stop)[:1] + 1
        assert np.array_equal(told[: end[0] if len(end) else STEPS], whole[: end[0] if len(end) else STEPS])
        assert not len(end) or (told[end[0] :] == NONE).all()
    assert (found.tokens[0, 3:] == NONE).all() and (found.likelihoods[0, 3:] == 0).all()


def test_following_an_answer_gives_the_probabilities_of_its_tokens() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    data, answers = small_llama.prompts(), np.arange(3, 3 + 6 * 4).reshape(6, 4)
    answers[2, 3] = NONE
    found = follow(runner(True), data, np.arange(6), answers)
    model = AutoModelForCausalLM.from_pretrained(small_llama.folder()).eval()
    for row in range(6):
        prompt = data.inputs["input_ids"][row][data.inputs["attention_mask"][row] == 1]
        answer = answers[row][answers[row] != NONE]
        with torch.no_grad():
            logits = model(torch.from_numpy(np.concatenate([prompt, answer]))[None]).logits[0]
        likely = logits.log_softmax(-1)[len(prompt) - 1 : -1].numpy()[np.arange(len(answer)), answer]
        assert np.allclose(found.likelihoods[row, : len(answer)], likely, atol=1e-4)
        assert np.isclose(found.perplexity()[row], np.exp(-likely.mean()), rtol=1e-3)


def test_prompts_of_different_length_do_not_share_a_batch_where_padding_would_be_counted() -> None:
    live = Runner(merged_decoder(), small_llama.folder(), 1)
    assert live.decoder is not None and not live.decoder.has_positions and len(live.decoder.caches) == 4
    data = small_llama.prompts()
    together = generate(live, data, np.arange(6), 4).tokens
    for row in range(6):
        length = int(data.inputs["attention_mask"][row].sum())
        alone = DataSet({name: array[[row], :length] for name, array in data.inputs.items()})
        assert np.array_equal(generate(live, alone, np.zeros(1, int), 4).tokens[0], together[row])


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "whole text"])
@pytest.mark.parametrize("tokens", [(7, 40, 3), None], ids=["answer tokens", "vocabulary"])
def test_a_prediction_is_the_first_token_of_the_answer(cache: bool, tokens: tuple[int, ...] | None) -> None:
    live, data = runner(cache), small_llama.prompts()
    answers = answers_of(live, data, tokens)
    if not cache and tokens is None:
        assert answers is None  # it may be any model that scores every token
        return
    told = live.answering(answers)
    output = prediction_output(told, data, None)
    found = predict(told, data, np.arange(6), output)
    if tokens is None:
        assert np.array_equal(found, expected()[:, 0])
    else:
        scores = follow(live, data, np.repeat(np.arange(6), 3), np.tile(tokens, 6)[:, None]).likelihoods
        assert np.array_equal(found, scores.reshape(6, 3).argmax(1))
    cut = told.without_padding("attention_mask")
    assert np.array_equal(predict(cut, data, np.arange(6), output), found)
