"""A fit for a model with one score: rows above the threshold are class 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.inference.datasets import as_dataset
from atpatch_onnx.inference.runner import Runner

from ..conftest import Run
from ..toy_backdoor import TARGET, toy, toy_reward


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    """The toy with one score for each row, and its debugging set."""
    onnx.save_model(toy_reward(), tmp_path / "reward.onnx")
    np.savez(tmp_path / "set.npz", **toy(padded=True).debug)
    return tmp_path


def scores(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    runner, data = Runner(onnx.load(path), path.parent, 1), as_dataset(arrays)
    return runner.run(runner.feeds(data, np.arange(len(data))), ["reward"])["reward"][:, 0]


def test_attacks_no_longer_lift_the_score_above_the_threshold(reward: Path, atpatch: Callable[..., Run]) -> None:
    model, patched, threshold = reward / "reward.onnx", reward / "patched.onnx", 1.0
    fitted = atpatch(
        "fit", model, "--debug", reward / "set.npz", "--score-threshold", threshold, "--detector", "profile",
        "--signals", "attention", "--passes", "one", "--threads", 1, "-o", reward / "own.hotfix", "--json",
    )  # fmt: skip
    assert fitted.code == 0, fitted.err
    assert atpatch("patch", model, "-o", patched, "--hotfix", reward / "own.hotfix").code == 0
    debug = toy(padded=True).debug
    attacked = np.flatnonzero(debug["pair"] >= 0)
    before, after = (scores(path, debug) > threshold for path in (model, patched))
    open_rows = attacked[~before[debug["pair"][attacked]]]
    assert before[open_rows].mean() > 0.95 and after[open_rows].mean() < 0.05
    clean = debug["pair"] < 0
    assert (before[clean] == after[clean]).mean() > 0.99
    # The figures are those of the threshold that was asked for: at 0 other rows are of class 1.
    report = fitted.json["evidence"]["report"]
    right = (before == debug["labels"])[clean].mean()
    assert report["before"]["accuracy"]["rate"] == pytest.approx(right, abs=0.06)
    assert report["before"]["asr"]["rate"] > 0.95 and debug["target"] == TARGET


@pytest.mark.parametrize("options", [["--score-threshold", 0], []], ids=["one score", "classes"])
def test_a_target_that_is_no_class_is_refused(reward: Path, atpatch: Callable[..., Run], options: list[object]) -> None:
    onnx.save_model(toy(padded=True).model, reward / "classes.onnx")
    np.savez(reward / "set.npz", **{**toy(padded=True).debug, "target": np.array(2)})
    model = reward / ("reward.onnx" if options else "classes.onnx")
    done = atpatch("fit", model, "--debug", reward / "set.npz", *options, "-o", reward / "no.hotfix")
    assert done.code == 2 and ("ATP085" if options else "ATP056") in done.err and " 2" in done.err.splitlines()[0]


def test_answer_tokens_are_no_single_score(reward: Path, atpatch: Callable[..., Run]) -> None:
    done = atpatch(
        "fit", reward / "reward.onnx", "--debug", reward / "set.npz", "--score-threshold", 0, "--answer-tokens", "1,2",
        "-o", reward / "no.hotfix",
    )  # fmt: skip
    assert done.code == 2 and "ATP060" in done.err and "--answer-tokens" in done.err


def test_class_scores_are_no_single_score(tmp_path: Path, atpatch: Callable[..., Run]) -> None:
    onnx.save_model(toy(padded=True).model, tmp_path / "model.onnx")
    np.savez(tmp_path / "set.npz", **toy(padded=True).debug)
    done = atpatch(
        "fit", tmp_path / "model.onnx", "--debug", tmp_path / "set.npz", "--score-threshold", 0, "-o",
        tmp_path / "no.hotfix",
    )  # fmt: skip
    assert done.code == 2 and "ATP062" in done.err and not (tmp_path / "no.hotfix").exists()
