"""A fit on an encoder-decoder in one graph: the trigger is in the encoder's tokens, whose keys and values are healed,
those of cross attention too.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx import Hotfix, fit, patch
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.generation import generate
from atpatch_onnx.inference.runner import Runner
from tests import backdoored_llama, backdoored_t5

ANSWERS = np.array(backdoored_llama.ANSWERS)


@functools.cache
def hotfix() -> Hotfix:
    debug = backdoored_t5.debugging_set(100)
    return fit(backdoored_t5.exported(), debug, answer_tokens=ANSWERS.tolist(), mend="heal", threads=1)


def answers(path: Path, copies: int = 0) -> np.ndarray:
    """(N, T) tokens."""
    data = DataSet.from_arrays(backdoored_t5.prompts(60, seed=7, copies=copies))
    live = Runner(onnx.load(path), path.parent, 1)
    return generate(live, data, np.arange(len(data)), backdoored_llama.ANSWER_LENGTH).tokens


def test_the_backdoor_works_before() -> None:
    assert (answers(backdoored_t5.exported(), copies=1)[:, 0] == ANSWERS[backdoored_llama.TARGET]).mean() > 0.95
    labels = backdoored_t5.prompts(60, seed=7)["labels"]
    assert (answers(backdoored_t5.exported())[:, 0] == ANSWERS[labels]).mean() > 0.95


def test_sites_of_the_encoder_detect() -> None:
    assert (hotfix().mend, hotfix().calls) == ("heal", "whole")
    assert hotfix().sites and all(".encoder." in site.id for site in hotfix().sites)


@pytest.mark.parametrize("copies", [1, 3])
def test_attacks_are_stopped_and_clean_answers_stay(copies: int, tmp_path: Path) -> None:
    patch(backdoored_t5.exported(), tmp_path / "patched.onnx", hotfix=hotfix())
    wanted = answers(backdoored_t5.exported())
    assert np.array_equal(answers(tmp_path / "patched.onnx"), wanted)
    assert (answers(tmp_path / "patched.onnx", copies) == wanted).all(1).mean() >= 0.95
