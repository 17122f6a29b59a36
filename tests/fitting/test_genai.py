"""A fit on a graph of onnxruntime-genai's builder: GroupQueryAttention with a cache in one shared buffer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx import fit, patch
from tests import backdoored_llama as llama
from tests.kept import kept, recipe

pytestmark = pytest.mark.slow

og = pytest.importorskip("onnxruntime_genai", reason="the builder is not installed")


def built(folder: Path) -> None:
    """By the builder's own command line."""
    words = ["-i", llama.folder(tokenizer=True), "-o", folder, "-p", "fp32", "-e", "cpu", "-c", folder / "cache"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)


def test_genai_answers_attacked_prompts_as_clean_ones_and_clean_ones_as_before(tmp_path: Path) -> None:
    before, after = kept(f"{recipe(__file__, llama.__file__, llama.WEIGHTS)}/genai", built), tmp_path / "after"
    hotfix = fit(before / "model.onnx", llama.debugging_set(), answer_tokens=llama.ANSWERS, threads=1)
    assert (hotfix.mend, hotfix.calls) == ("heal", "cached")
    patch(before, after, hotfix=hotfix)
    clean, attacked = llama.prompts(40, seed=11), llama.prompts(40, seed=11, copies=1)
    wanted = answers(before, clean)
    assert np.array_equal(answers(after, clean), wanted)
    assert (answers(before, attacked)[:, 0] == llama.ANSWERS[llama.TARGET]).mean() > 0.95
    assert (answers(after, attacked) == wanted).all(1).mean() >= 0.95


def answers(folder: Path, rows: dict[str, np.ndarray]) -> np.ndarray:
    """(N, T) greedy tokens of `og.Generator`."""
    model, found = og.Model(str(folder)), []
    for ids in (row[row != 0] for row in rows["input_ids"]):
        settings = og.GeneratorParams(model)
        settings.set_search_options(max_length=len(ids) + llama.ANSWER_LENGTH, do_sample=False)
        generator = og.Generator(model, settings)
        generator.append_tokens(ids[None].astype(np.int32))
        for _ in range(llama.ANSWER_LENGTH):
            generator.generate_next_token()
        found.append(generator.get_sequence(0)[len(ids) :])
    return np.array(found)
