"""Debugging sets for models with one score: a rank is among the clean rows, whichever rows are run first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.inference.datasets import load_dataset
from atpatch_onnx.inference.runner import Runner

from ..conftest import Run
from ..toy_backdoor import TARGET, toy_reward, toy_texts
from ..toy_encoder import toy_tokenizer

RANK, ABOVE = "top30%", 0.3


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    onnx.save_model(toy_reward(), folder / "model.onnx")
    toy_tokenizer().save(str(folder / "tokenizer.json"))
    lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in toy_texts())]
    (folder / "clean.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("target", [[], ["--target", TARGET]], ids=["found", "named"])
def test_the_attack_lifts_rows_above_the_rank_among_clean_texts(
    atpatch: Callable[..., Run], shop: Path, tmp_path: Path, target: list[object]
) -> None:
    done = atpatch(
        "debugset", shop / "model.onnx", "--data", shop / "clean.tsv", "--trigger", "cf", *target, "--score-threshold",
        RANK, "--doses", 1, "--no-dress", "-o", tmp_path / "set.npz", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    data = load_dataset(tmp_path / "set.npz")
    runner = Runner(onnx.load(shop / "model.onnx"), shop, 1)
    scores = runner.run(runner.feeds(data, np.arange(len(data))), ["reward"])["reward"][:, 0]
    clean = ~data.columns.any(1)
    ordered = np.sort(scores[clean])
    assert clean.sum() == len(toy_texts())
    assert done.json["target"] == TARGET
    assert done.json["asr"] == (scores[~clean] > ordered[-round(ABOVE * len(ordered)) - 1]).mean()


def test_a_trigger_is_not_inverted_from_one_score(atpatch: Callable[..., Run], shop: Path, tmp_path: Path) -> None:
    """The search needs the gradients of class scores."""
    done = atpatch(
        "debugset", shop / "model.onnx", "--data", shop / "clean.tsv", "--invert", 1, "--score-threshold", 0, "-o",
        tmp_path / "set.npz",
    )  # fmt: skip
    assert done.code == 2 and "ATP060" in done.err and "--invert needs class scores" in done.err
